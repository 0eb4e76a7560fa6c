// SPDX-License-Identifier: AGPL-3.0-or-later
/** The requests of the client-server API that the page makes. Waits where the server says so. */

import { canonical } from "./rules.js";

/** @import {Pusher, PushRules, RuleSet, RuleWrite, Session} from "./types.js" */

const V3 = "/_matrix/client/v3";
const UNSTABLE = "/_matrix/client/unstable";

const LONGEST_WAIT_MS = 60_000;
const TRIES = 6;
/** When rules are read again of which a process of the server has not heard yet. */
const AGAIN_MS = [100, 200, 400, 800];
/** How long it may take until all have. */
const HEARD_MS = 10_000;

export const SILENCED = "org.matrix.msc3890.local_notification_settings.";
export const WANTED = "org.matrix.msc3837.notification_settings.";

/** @param {string[]} parts */
function path(...parts) {
  return [V3, ...parts.map(encodeURIComponent)].join("/");
}

/**
 * @param {string} scope  "global", or a profile tag
 * @param {string[]} rest
 */
function rulesPath(scope, ...rest) {
  const scopes = scope === "global" ? ["global"] : ["device", scope];
  return path("pushrules", ...scopes, ...rest);
}

/** @param {string} deviceId */
const ownPath = (deviceId) =>
  `${UNSTABLE}/pushrules/device/${encodeURIComponent(deviceId)}/org.matrix.msc3837.own`;

/** @param {number} ms */
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Client {
  /**
   * @param {Session} session
   * @param {(milliseconds: number) => void} onWait  told how long the server wants us to wait; 0 when
   *   that is over
   */
  constructor(session, onWait) {
    this.session = session;
    this.userId = session.userId;
    this.onWait = onWait;
    /** @type {Map<string, {scope: string, kind: string, id: string, actions: unknown[] | null, at: number}>}
     *   what was written of rules; no actions where they were removed */
    this.written = new Map();
  }

  /**
   * @param {string} method
   * @param {string} where
   * @param {unknown} [body]
   * @returns {Promise<any>}
   */
  async call(method, where, body) {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.session.request(method, where, body);
      } catch (/** @type {any} */ error) {
        if (error.status !== 429 || attempt === TRIES) throw error;
        const ms = Math.max(error.retryAfterMs || 1000 * attempt, 100);
        if (ms > LONGEST_WAIT_MS) throw error;
        this.onWait(ms);
        await sleep(ms);
        this.onWait(0);
      }
    }
  }

  /** @returns {Promise<any[]>} */
  async devices() {
    return (await this.call("GET", path("devices"))).devices ?? [];
  }

  /** @returns {Promise<Pusher[]>} */
  async pushers() {
    return (await this.call("GET", path("pushers"))).pushers ?? [];
  }

  /** @returns {Promise<PushRules>} with what was written here, whichever process answers */
  async pushRules() {
    for (let attempt = 0; ; attempt++) {
      const read = await this.call("GET", path("pushrules", ""));
      const ms = AGAIN_MS[attempt];
      if (ms === undefined || this.hasHeard(read)) return read;
      await sleep(ms);
    }
  }

  /**
   * Whether who answered has heard of what was written.
   *
   * @param {PushRules} read
   */
  hasHeard(read) {
    const since = Date.now() - HEARD_MS;
    return [...this.written.values()].every(({ scope, kind, id, actions, at }) => {
      if (at < since) return true;
      /** @type {RuleSet | undefined} */
      const rules = scope === "global" ? read.global : read.device?.[scope];
      const found = rules?.[kind]?.find((rule) => rule.rule_id === id);
      return actions === null ? !found : canonical(found?.actions) === canonical(actions);
    });
  }

  /**
   * @param {string} scope
   * @param {string} kind
   * @param {string} id
   * @param {unknown[] | null} actions
   */
  note(scope, kind, id, actions) {
    const where = rulesPath(scope, kind, id);
    this.written.set(where, { scope, kind, id, actions, at: Date.now() });
  }

  /**
   * The whole pusher as it was read, with what changes under both its names.
   *
   * @param {Pusher} pusher
   * @param {{enabled?: boolean, profile_tags?: string[]}} change
   */
  setPusher(pusher, change) {
    /** @type {Pusher} */
    const body = { ...pusher, append: true };
    if (change.enabled !== undefined) {
      body["enabled"] = body["org.matrix.msc3881.enabled"] = change.enabled;
    }
    if (change.profile_tags !== undefined) {
      body["profile_tags"] = body["org.matrix.msc3837.profile_tags"] = change.profile_tags;
    }
    return this.call("POST", path("pushers", "set"), body);
  }

  /**
   * @param {string} scope
   * @param {RuleWrite} rule
   * @param {string} [after]  the id of the rule that it is to come after; without, it comes first
   */
  async putRule(scope, rule, after) {
    const query = after === undefined ? "" : `?after=${encodeURIComponent(after)}`;
    await this.call("PUT", rulesPath(scope, rule.kind, rule.id) + query, rule.body);
    this.note(scope, rule.kind, rule.id, rule.body.actions);
  }

  /**
   * @param {string} scope
   * @param {string} kind
   * @param {string} id
   */
  enableRule(scope, kind, id) {
    return this.call("PUT", rulesPath(scope, kind, id, "enabled"), { enabled: true });
  }

  /**
   * @param {string} scope
   * @param {string} kind
   * @param {string} id
   */
  async deleteRule(scope, kind, id) {
    try {
      await this.call("DELETE", rulesPath(scope, kind, id));
    } catch (/** @type {any} */ error) {
      if (error.status !== 404) throw error; // Somebody else was quicker.
    }
    this.note(scope, kind, id, null);
  }

  /**
   * Whether a device goes by what is set in its own app.
   *
   * @param {string} deviceId
   * @returns {Promise<boolean | null>}  null where the server does not know of such
   */
  async hasOwnSettings(deviceId) {
    try {
      return (await this.call("GET", ownPath(deviceId))).enabled === true;
    } catch (/** @type {any} */ error) {
      // To a module that is older it is a rule in a scope that there is not.
      if (error.status === 404 || error.status === 400) return null;
      throw error;
    }
  }

  /**
   * @param {string} deviceId
   * @param {boolean} enabled
   */
  async setOwnSettings(deviceId, enabled) {
    // It may bring rules, or take some away.
    for (const [where, { scope }] of this.written) if (scope === deviceId) this.written.delete(where);
    await this.call("PUT", ownPath(deviceId), { enabled });
  }

  /**
   * @param {string} type
   * @param {object} content
   */
  putAccountData(type, content) {
    return this.call("PUT", path("user", this.userId, "account_data", type), content);
  }

  /**
   * All account data of the user by type, push rules among them, and no room: one quick request.
   *
   * @returns {Promise<Record<string, any>>}
   */
  async accountData() {
    const none = { types: [] };
    const answer = await this.sync({ room: { rooms: [] }, presence: none });
    const events = answer.account_data?.events ?? [];
    return Object.fromEntries(events.map((/** @type {any} */ e) => [e.type, e.content]));
  }

  /**
   * An initial sync, which marks nothing as received and nobody as online. The server gives the same
   * answer to the same request for two minutes; the timeout, which means nothing here, makes it another.
   *
   * @param {object} filter
   */
  sync(filter) {
    const query = new URLSearchParams({
      filter: JSON.stringify(filter),
      set_presence: "offline",
      timeout: String(Date.now() % 30_000),
    });
    return this.call("GET", `${path("sync")}?${query}`);
  }

  /**
   * @param {object} body
   * @param {string} [pos]
   */
  slidingSync(body, pos) {
    const query = new URLSearchParams({ timeout: "0", set_presence: "offline" });
    if (pos !== undefined) query.set("pos", pos);
    return this.call("POST", `${UNSTABLE}/org.matrix.simplified_msc3575/sync?${query}`, body);
  }

  /**
   * The newest messages of a room.
   *
   * @param {string} roomId
   * @param {string[]} types
   * @param {string} [from]
   */
  messages(roomId, types, from) {
    const query = new URLSearchParams({
      dir: "b",
      limit: "30",
      filter: JSON.stringify({ types, lazy_load_members: true }),
    });
    if (from !== undefined) query.set("from", from);
    return this.call("GET", `${path("rooms", roomId, "messages")}?${query}`);
  }

  /**
   * @param {string} roomId
   * @param {string} eventId
   */
  explain(roomId, eventId) {
    const ids = [roomId, eventId].map(encodeURIComponent).join("/");
    return this.call("GET", `${UNSTABLE}/org.matrix.msc3837/explain/${ids}`);
  }

  /** @returns {Promise<Record<string, boolean>>} */
  async features() {
    return (await this.call("GET", "/_matrix/client/versions")).unstable_features ?? {};
  }
}
