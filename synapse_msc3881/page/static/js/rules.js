// SPDX-License-Identifier: AGPL-3.0-or-later
/**
 * Which rules a choice is made of, and which choice rules are. Pure: no requests, no texts.
 *
 * Rules of a device stand in the scope that is called as the device (its profile tag is its id).
 * What notifies about a room is an `underride`: the server keeps reactions, edits, notices and joins
 * quiet before it (specification 4), as it does for a `room` rule in `global`. The last of them is
 * silent, so that the walk does not go on to what `global` says of the room. Muting is an
 * `override`, since anything else would lose to the keywords of the device.
 */

/** @import {Action, Choice, Condition, Device, Follow, PushRules, Room, Rule, RuleSet, RuleWrite} from "./types.js" */

export const GLOBAL = "global";

const SOUND = { set_tweak: "sound", value: "default" };
const HIGHLIGHT = { set_tweak: "highlight" };
const RING = { set_tweak: "sound", value: "ring" };

/** @type {(key: string, pattern: string) => Condition} */
const matches = (key, pattern) => ({ kind: "event_match", key, pattern });

const INVITED = (/** @type {string} */ userId) => [
  matches("type", "m.room.member"),
  matches("content.membership", "invite"),
  matches("state_key", userId),
];
// A dot that belongs to a name has a backslash before it.
const MENTIONED = (/** @type {string} */ userId) => [
  { kind: "event_property_contains", key: "content.m\\.mentions.user_ids", value: userId },
];
const EVERYONE = [
  { kind: "event_property_is", key: "content.m\\.mentions.room", value: true },
  { kind: "sender_notification_permission", key: "room" },
];
const ONE_TO_ONE = { kind: "room_member_count", is: "2" };

// ---- What rules a choice is made of ----

/**
 * The rules of a device for a room, in the order that they have to have.
 *
 * @param {Choice} choice
 * @param {string} roomId
 * @param {string} userId
 * @param {string[]} words  keywords that hold everywhere, and so have to hold here
 * @returns {RuleWrite[]}
 */
export function roomRules(choice, roomId, userId, words) {
  const here = matches("room_id", roomId);
  /** @type {(name: string, conditions: Condition[], actions: Action[]) => RuleWrite} */
  const rule = (name, conditions, actions) => ({
    kind: "underride",
    id: `${name}:${roomId}`,
    body: { conditions: [here, ...conditions], actions },
  });
  if (choice === "everywhere") return [];
  if (choice === "muted") {
    return [{ kind: "override", id: roomId, body: { conditions: [here], actions: [] } }];
  }
  const common = [
    rule("invite", INVITED(userId), ["notify", SOUND]),
    rule("mention", MENTIONED(userId), ["notify", SOUND, HIGHLIGHT]),
    rule("everyone", EVERYONE, ["notify", SOUND, HIGHLIGHT]),
  ];
  const quiet = rule("quiet", [], []);
  if (choice === "mentions") {
    const keywords = words.map((word) =>
      rule(`keyword:${ruleIdOf(word)}`, [matches("content.body", word)], [
        "notify",
        SOUND,
        HIGHLIGHT,
      ]),
    );
    return [...common, ...keywords, quiet];
  }
  return [
    ...common,
    rule("call", [matches("type", "m.call.invite")], ["notify", RING]),
    rule("message", [matches("type", "m.room.message")], ["notify", SOUND]),
    rule("encrypted", [matches("type", "m.room.encrypted")], ["notify", SOUND]),
    quiet,
  ];
}

/**
 * The rules of a device that rings for direct messages, and for what else is chosen.
 *
 * @param {string} userId
 * @returns {RuleWrite[]}
 */
export function directRules(userId) {
  /** @type {(name: string, conditions: Condition[], actions: Action[]) => RuleWrite} */
  const rule = (name, conditions, actions) => ({
    kind: "underride",
    id: `direct:${name}`,
    body: { conditions, actions },
  });
  return [
    rule("invite", INVITED(userId), ["notify", SOUND]),
    rule("call", [ONE_TO_ONE, matches("type", "m.call.invite")], ["notify", RING]),
    rule("message", [ONE_TO_ONE, matches("type", "m.room.message")], ["notify", SOUND]),
    rule("encrypted", [ONE_TO_ONE, matches("type", "m.room.encrypted")], ["notify", SOUND]),
  ];
}

/**
 * A room's rule for all devices, as Element writes it.
 *
 * @param {Choice} choice
 * @param {string} roomId
 * @returns {RuleWrite | null}
 */
export function everywhereRule(choice, roomId) {
  if (choice === "muted") {
    const conditions = [matches("room_id", roomId)];
    return { kind: "override", id: roomId, body: { conditions, actions: [] } };
  }
  if (choice === "mentions") return { kind: "room", id: roomId, body: { actions: [] } };
  if (choice === "all") return { kind: "room", id: roomId, body: { actions: ["notify", SOUND] } };
  return null;
}

/**
 * @param {string} word
 * @param {boolean} sound
 * @param {string} [id]  of a rule that is there already
 * @returns {RuleWrite}
 */
export function keywordRule(word, sound, id) {
  const actions = ["notify", ...(sound ? [SOUND] : []), HIGHLIGHT];
  return { kind: "content", id: id ?? ruleIdOf(word), body: { pattern: word, actions } };
}

/**
 * The word itself, as in other clients, without what an id must not hold.
 *
 * @param {string} word
 */
export function ruleIdOf(word) {
  return word.replace(/[/\\]/g, "_").replace(/^\./, "_.");
}

// ---- Which choice rules are ----

/**
 * An id for a keyword that no rule has yet: another app's may be called so and be something else.
 *
 * @param {RuleSet | undefined} scope
 * @param {string} word
 */
export function freeKeywordId(scope, word) {
  const taken = new Set(kindOf(scope, "content").map((rule) => rule.rule_id));
  let id = ruleIdOf(word);
  while (taken.has(id)) id += "_";
  return id;
}

/** @param {Rule} rule */
const notifies = (rule) => rule.actions.includes("notify");

/** @param {Rule} rule */
const isSilent = (rule) => rule.actions.every((action) => action === "dont_notify");

/**
 * @param {RuleSet | undefined} scope
 * @param {string} kind
 * @returns {Rule[]}
 */
const kindOf = (scope, kind) => (Array.isArray(scope?.[kind]) ? scope[kind] : []);

/**
 * Rooms are named by rules in their id or in a condition.
 *
 * @param {string} kind
 * @param {Rule} rule
 * @returns {string | null}
 */
export function roomOf(kind, rule) {
  if (kind === "room") return rule.rule_id;
  const condition = rule.conditions?.find((c) => c.kind === "event_match" && c.key === "room_id");
  return condition?.pattern ?? null;
}

const OUR_NAMES = /^(invite|mention|everyone|keyword:.*|call|message|encrypted|quiet)$/s;

/**
 * Whether it is a rule that the page may have written about a room, and its name there.
 *
 * @param {string} kind
 * @param {Rule} rule
 * @returns {string | null}  "mute", or the name as in `roomRules`
 */
function ourName(kind, rule) {
  const roomId = roomOf(kind, rule);
  if (roomId === null) return null;
  if (kind === "override") {
    const plain = rule.rule_id === roomId && rule.conditions?.length === 1;
    return plain && isSilent(rule) ? "mute" : null;
  }
  if (kind !== "underride" || !rule.rule_id.endsWith(`:${roomId}`)) return null;
  const name = rule.rule_id.slice(0, -roomId.length - 1);
  return OUR_NAMES.test(name) && notifies(rule) === (name !== "quiet") ? name : null;
}

/**
 * @param {string} kind
 * @param {Rule} rule
 */
const isDirect = (kind, rule) =>
  kind === "underride" && /^direct:(invite|call|message|encrypted)$/.test(rule.rule_id);

/**
 * A keyword, whoever wrote it: a pattern, and nothing done that the page does not know.
 *
 * @param {string} kind
 * @param {Rule} rule
 */
export function isKeyword(kind, rule) {
  if (kind !== "content" || rule.default || !rule.enabled) return false;
  return (
    notifies(rule) &&
    rule.actions.every(
      (action) =>
        action === "notify" ||
        (typeof action === "object" && ["sound", "highlight"].includes(action.set_tweak)),
    )
  );
}

/** @param {Rule} rule */
export function hasSound(rule) {
  return rule.actions.some((action) => typeof action === "object" && action.set_tweak === "sound");
}

/**
 * @param {RuleSet | undefined} scope
 * @returns {{kind: string, rule: Rule}[]}
 */
function all(scope) {
  return ["override", "content", "room", "sender", "underride"].flatMap((kind) =>
    kindOf(scope, kind).map((rule) => ({ kind, rule })),
  );
}

/**
 * What the page's own rules of a device say of a room.
 *
 * @param {RuleSet | undefined} scope  the device's
 * @param {string} roomId
 * @returns {{choice: Choice | "unfinished", words: string[], foreign: boolean}}  `foreign`: another
 *   app has a rule about the room there
 */
export function roomChoice(scope, roomId) {
  const about = all(scope).filter(({ kind, rule }) => roomOf(kind, rule) === roomId);
  const names = new Map(
    about
      .map(({ kind, rule }) => /** @type {const} */ ([ourName(kind, rule), rule]))
      .filter(([name, rule]) => name !== null && rule.enabled),
  );
  const words = [...names]
    .filter(([name]) => name?.startsWith("keyword:"))
    .map(([, rule]) => String(rule.conditions?.find((c) => c.key === "content.body")?.pattern));
  const has = (/** @type {string[]} */ ...wanted) => wanted.every((name) => names.has(name));
  const foreign = about.some(({ kind, rule }) => rule.enabled && ourName(kind, rule) === null);
  /** @type {Choice | "unfinished"} */
  let choice = names.size ? "unfinished" : "everywhere";
  const quietIsLast = [...names.keys()].at(-1) === "quiet";
  if (has("mute")) choice = "muted";
  else if (has("message", "encrypted") && quietIsLast) choice = "all";
  else if (has("mention") && !has("message") && quietIsLast) choice = "mentions";
  return { choice, words, foreign };
}

/**
 * The rooms for which a device has rules of its own, by anybody.
 *
 * @param {RuleSet | undefined} scope
 * @returns {string[]}
 */
export function roomsOf(scope) {
  const ids = all(scope)
    .map(({ kind, rule }) => roomOf(kind, rule))
    .filter((id) => id !== null && id.startsWith("!"));
  return [...new Set(/** @type {string[]} */ (ids))];
}

/**
 * The scopes of a device: its own, and those that other apps have given to it.
 *
 * @param {PushRules} rules
 * @param {Device} device
 * @returns {RuleSet[]}
 */
const scopesOf = (rules, device) =>
  [...new Set([device.id, ...device.tags])]
    .map((tag) => rules.device?.[tag])
    .filter((scope) => scope !== undefined);

/**
 * The rooms that a device treats otherwise.
 *
 * @param {PushRules} rules
 * @param {Device} device
 */
export const roomsOn = (rules, device) => [...new Set(scopesOf(rules, device).flatMap(roomsOf))];

/**
 * Whether another app has a rule about a room on a device.
 *
 * @param {PushRules} rules
 * @param {Device} device
 * @param {string} roomId
 */
export function isForeign(rules, device, roomId) {
  const own = rules.device?.[device.id];
  const others = scopesOf(rules, device).filter((scope) => scope !== own);
  return (
    roomChoice(own, roomId).foreign || others.some((scope) => roomsOf(scope).includes(roomId))
  );
}

/**
 * What is written in a device's scope for a room by the page, to be deleted: what holds the room
 * silent comes first, so that nothing is silent half way.
 *
 * @param {RuleSet | undefined} scope
 * @param {string | null} roomId  null for all rooms
 */
export function ownRoomRules(scope, roomId) {
  return all(scope)
    .filter(({ kind, rule }) => ourName(kind, rule) !== null)
    .filter(({ kind, rule }) => roomId === null || roomOf(kind, rule) === roomId)
    .map(({ kind, rule }) => ({ kind, id: rule.rule_id, silent: isSilent(rule) }))
    .sort((a, b) => Number(b.silent) - Number(a.silent));
}

/**
 * The rule that those for direct messages have to come after: what is set for a room goes first.
 *
 * @param {RuleSet | undefined} scope
 * @returns {{kind: string, id: string} | undefined}
 */
export function lastRoomRule(scope) {
  const rule = kindOf(scope, "underride").findLast((one) => ourName("underride", one) !== null);
  return rule && { kind: "underride", id: rule.rule_id };
}

/** @param {RuleSet | undefined} scope */
export function ownDirectRules(scope) {
  return all(scope)
    .filter(({ kind, rule }) => isDirect(kind, rule))
    .map(({ kind, rule }) => ({ kind, id: rule.rule_id }));
}

/**
 * @param {RuleSet | undefined} scope
 * @returns {Rule[]}
 */
export function keywordsOf(scope) {
  return kindOf(scope, "content").filter((rule) => isKeyword("content", rule));
}

/**
 * The rules that the page does not understand and that are about no single room.
 *
 * @param {RuleSet | undefined} scope
 */
export function foreignRules(scope) {
  return all(scope).filter(
    ({ kind, rule }) =>
      !rule.default &&
      roomOf(kind, rule) === null &&
      !isKeyword(kind, rule) &&
      !isDirect(kind, rule),
  );
}

/**
 * What the rules for all devices say of a room.
 *
 * @param {RuleSet} scope  `global`
 * @param {string} roomId
 * @returns {{choice: Choice, rules: {kind: string, id: string}[], foreign: boolean}}  the rules that
 *   make the choice
 */
export function everywhereChoice(scope, roomId) {
  const mutes = kindOf(scope, "override").filter(
    (rule) => rule.conditions?.length === 1 && roomOf("override", rule) === roomId && isSilent(rule),
  );
  const rooms = kindOf(scope, "room").filter((rule) => rule.rule_id === roomId);
  const understood = [
    ...mutes.map((rule) => ({ kind: "override", rule })),
    ...rooms.map((rule) => ({ kind: "room", rule })),
  ];
  const foreign = all(scope).some(
    ({ kind, rule }) =>
      !rule.default &&
      rule.enabled &&
      roomOf(kind, rule) === roomId &&
      !understood.some((one) => one.rule === rule),
  );
  const deciding = understood.find(({ rule }) => rule.enabled);
  /** @type {Choice} */
  let choice = "everywhere";
  if (deciding?.kind === "override") choice = "muted";
  else if (deciding) choice = notifies(deciding.rule) ? "all" : "mentions";
  const rules = understood.map(({ kind, rule }) => ({ kind, id: rule.rule_id }));
  return { choice, rules, foreign };
}

/**
 * How a device follows what holds everywhere.
 *
 * @param {string} deviceId
 * @param {string[]} tags
 * @param {RuleSet | undefined} scope
 * @returns {Follow}
 */
export function followOf(deviceId, tags, scope) {
  const [first, second, ...rest] = tags;
  if (rest.length) return "custom";
  if (first === GLOBAL && second === undefined) return "everywhere";
  if (first !== deviceId) return "custom";
  if (second === GLOBAL) return "own-first";
  if (second !== undefined) return "custom";
  return ownDirectRules(scope).length ? "chosen" : "own-only";
}

/**
 * The tags of a device that has got settings of its own: what is there stays.
 *
 * @param {string} deviceId
 * @param {string[]} tags
 */
export function tagsWithOwn(deviceId, tags) {
  return tags.includes(deviceId) ? tags : [deviceId, ...tags];
}

/**
 * Whether the whole account is switched off.
 *
 * @param {PushRules} rules
 */
export function isAccountOff(rules) {
  return kindOf(rules.global, "override").some(
    (rule) => rule.rule_id === ".m.rule.master" && rule.enabled,
  );
}

/** @param {PushRules} rules */
export function globalWords(rules) {
  return keywordsOf(rules.global).map((rule) => String(rule.pattern));
}

// ---- What will happen ----

/**
 * What a room does where nothing is set for it: rings for all, or for mentions.
 *
 * @param {RuleSet} scope  `global`
 * @param {Room} room
 * @returns {"all" | "mentions"}
 */
function defaultOf(scope, room) {
  const kind = room.encrypted ? "encrypted" : "message";
  const oneToOne = room.encrypted ? "encrypted_room_one_to_one" : "room_one_to_one";
  const ids = [...(room.members === 2 ? [`.m.rule.${oneToOne}`] : []), `.m.rule.${kind}`];
  const deciding = ids
    .map((id) => kindOf(scope, "underride").find((rule) => rule.rule_id === id))
    .find((rule) => rule?.enabled);
  return deciding && notifies(deciding) ? "all" : "mentions";
}

/**
 * The name of the sentence that says what will happen everywhere.
 *
 * @param {PushRules} rules
 * @param {Room} room
 */
export function everywhereSentence(rules, room) {
  if (isAccountOff(rules)) return "accountOff";
  const { choice } = everywhereChoice(rules.global, room.id);
  const effect = choice === "everywhere" ? defaultOf(rules.global, room) : choice;
  return effect === "mentions" && room.encrypted ? "mentionsEncrypted" : effect;
}

/**
 * The name of the sentence that says what will happen on a device.
 *
 * @param {PushRules} rules
 * @param {Room} room
 * @param {Device} device
 */
export function deviceSentence(rules, room, device) {
  if (isAccountOff(rules)) return "accountOff";
  if (!device.on) return "deviceOff";
  if (!device.pushers.length) return `web.${everywhereSentence(rules, room)}`;
  const scope = rules.device?.[device.id];
  const { choice } = roomChoice(scope, room.id);
  if (choice === "unfinished") return "unfinished";
  if (choice !== "everywhere") {
    if (!device.tags.includes(device.id)) return "notInUse";
    if (device.tags.indexOf(GLOBAL) === 0) return "globalFirst";
    return choice === "mentions" && room.encrypted ? "mentionsEncrypted" : choice;
  }
  if (isForeign(rules, device, room.id)) return "foreign";
  if (device.tags.includes(GLOBAL)) return `follows.${everywhereSentence(rules, room)}`;
  const direct = ownDirectRules(scope).length > 0 && device.tags.includes(device.id);
  if (direct) return room.members === 2 ? "direct" : "notChosen";
  return "ownOnly";
}
