// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * The types of what goes about in the page. There is no code in here.
 *
 * @typedef {string | {set_tweak: string, value?: unknown}} Action
 * @typedef {{kind: string, key?: string, pattern?: string, value?: unknown, is?: string}} Condition
 *
 * @typedef {object} Rule
 * @property {string} rule_id
 * @property {boolean} enabled
 * @property {boolean} default
 * @property {Action[]} actions
 * @property {Condition[]} [conditions]
 * @property {string} [pattern]
 *
 * @typedef {Record<string, Rule[]>} RuleSet  by kind: override, content, room, sender, underride
 * @typedef {{global: RuleSet, device?: Record<string, RuleSet>}} PushRules
 *
 * @typedef {object} RuleWrite  a rule as it is to be
 * @property {"override" | "content" | "room" | "underride"} kind
 * @property {string} id
 * @property {{actions: Action[], conditions?: Condition[], pattern?: string}} body
 *
 * @typedef {Record<string, any>} Pusher  as GET /pushers gives it
 *
 * @typedef {object} Device  a session of the user that can be notified
 * @property {string} id
 * @property {string} name  shown as text; never empty
 * @property {number} [lastSeen]  milliseconds
 * @property {string} [app]
 * @property {Pusher[]} pushers  empty for one that makes its notifications itself
 * @property {boolean} on  whether it is notified
 * @property {string[]} tags  its profile tags
 * @property {boolean} reset  its app has undone what was set here
 * @property {boolean} own  it goes by what is set in its own app (specification 9)
 *
 * @typedef {object} Room
 * @property {string} id
 * @property {string} name
 * @property {number} stamp  newest first
 * @property {number} members
 * @property {boolean} encrypted
 * @property {string} [lastEvent]
 *
 * @typedef {"everywhere" | "all" | "mentions" | "muted"} Choice  of a room, on a device or for all
 * @typedef {"everywhere" | "app" | "own-first" | "own-only" | "chosen" | "custom"} Follow
 *
 * @typedef {object} Session  what session.js gives
 * @property {string} userId
 * @property {string} deviceId
 * @property {string} homeserver
 * @property {(method: string, path: string, body?: unknown, options?: object) => Promise<any>} request
 * @property {() => Promise<void>} signOut
 * @property {(listener: (reason?: string) => void) => void} onEnd
 */
export {};
