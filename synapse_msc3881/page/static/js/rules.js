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

/** A choice needs the place of a rule that another app has made and the page does not understand. */
export class TakenError extends Error {}

/** A device goes by its own app by now, and what was asked for was meant for one that does not. */
export class GoesByAppError extends Error {}

const SOUND = { set_tweak: "sound", value: "default" };
const HIGHLIGHT = { set_tweak: "highlight" };
const RING = { set_tweak: "sound", value: "ring" };

/** @type {(key: string, pattern: string) => Condition} */
const matches = (key, pattern) => ({ kind: "event_match", key, pattern });

/** @type {(userId: string) => Condition[]} */
const INVITED = (userId) => [
  matches("type", "m.room.member"),
  matches("content.membership", "invite"),
  matches("state_key", userId),
];
// A dot that belongs to a name has a backslash before it.
const MENTIONED_KEY = "content.m\\.mentions.user_ids";
const ONE_TO_ONE = { kind: "room_member_count", is: "2" };
const CALL = matches("type", "m.call.invite");
const MESSAGE = matches("type", "m.room.message");
const ENCRYPTED = matches("type", "m.room.encrypted");

/**
 * What a rule about a room asks for besides the room, by its name.
 *
 * @type {Record<string, (userId: string) => Condition[]>}
 */
const IN_ROOM = {
  invite: INVITED,
  mention: (userId) => [{ kind: "event_property_contains", key: MENTIONED_KEY, value: userId }],
  everyone: () => [
    { kind: "event_property_is", key: "content.m\\.mentions.room", value: true },
    { kind: "sender_notification_permission", key: "room" },
  ],
  call: () => [CALL],
  message: () => [MESSAGE],
  encrypted: () => [ENCRYPTED],
  quiet: () => [],
};

/**
 * What the rules for direct messages ask for, by name.
 *
 * @type {Record<string, (userId: string) => Condition[]>}
 */
const DIRECT = {
  invite: INVITED,
  call: () => [ONE_TO_ONE, CALL],
  message: () => [ONE_TO_ONE, MESSAGE],
  encrypted: () => [ONE_TO_ONE, ENCRYPTED],
};

/** @type {Record<string, Action[]>} */
const ACTIONS = {
  mention: ["notify", SOUND, HIGHLIGHT],
  everyone: ["notify", SOUND, HIGHLIGHT],
  call: ["notify", RING],
  quiet: [],
};

// ---- What rules a choice is made of ----

/**
 * The rules of a device for a room, in the order that they have to have.
 *
 * @param {Choice} choice
 * @param {string} roomId
 * @param {string} userId
 * @param {string[]} words  keywords that hold everywhere, and so have to hold here
 * @param {RuleSet} [scope]  the device's: what others have there keeps its id
 * @returns {RuleWrite[]}
 */
export function roomRules(choice, roomId, userId, words, scope) {
  if (choice === "everywhere") return [];
  if (choice === "muted") return [muteRule(roomId, scope)];
  /** @param {string} name */
  const rule = (name) => {
    const conditions = [matches("room_id", roomId), .../** @type {any} */ (IN_ROOM[name])(userId)];
    const body = { conditions, actions: ACTIONS[name] ?? ["notify", SOUND] };
    const id = (/** @type {string} */ more) => `${name}${more}:${roomId}`;
    return withFreeId("underride", id, body, scope);
  };
  const keywords = choice === "mentions" ? words : [];
  const further = choice === "all" ? ["call", "message", "encrypted", "quiet"] : ["quiet"];
  return [
    ...["invite", "mention", "everyone"].map(rule),
    ...keywords.map((word) => wordRule(word, roomId, scope)),
    ...further.map(rule),
  ];
}

/**
 * @param {string} roomId
 * @param {RuleSet} [scope]
 */
function muteRule(roomId, scope) {
  const body = { conditions: [matches("room_id", roomId)], actions: [] };
  const id = (/** @type {string} */ more) => (more ? `mute${more.slice(1)}:${roomId}` : roomId);
  return withFreeId("override", id, body, scope);
}

/**
 * A keyword of the account, for a room that is kept from `global` on a device.
 *
 * @param {string} word
 * @param {string} roomId
 * @param {RuleSet} [scope]
 */
export function wordRule(word, roomId, scope) {
  const conditions = [matches("room_id", roomId), matches("content.body", word)];
  const body = { conditions, actions: ["notify", SOUND, HIGHLIGHT] };
  const id = (/** @type {string} */ more) => `keyword:${ruleIdOf(word)}${more}:${roomId}`;
  return withFreeId("underride", id, body, scope);
}

/**
 * The rules of a device that rings for direct messages, and for what else is chosen.
 *
 * @param {string} userId
 * @param {RuleSet} [scope]  the device's: what others have there keeps its id
 * @returns {RuleWrite[]}
 */
export function directRules(userId, scope) {
  return Object.entries(DIRECT).map(([name, conditions]) => {
    const body = { conditions: conditions(userId), actions: ACTIONS[name] ?? ["notify", SOUND] };
    return withFreeId("underride", (more) => `direct:${name}${more}`, body, scope);
  });
}

/**
 * A rule with the first of some ids that no rule of another app has.
 *
 * @param {RuleWrite["kind"]} kind
 * @param {(more: string) => string} idWith  the id with so many "_" in it
 * @param {{conditions: Condition[], actions: Action[]}} body
 * @param {RuleSet | undefined} scope
 * @returns {RuleWrite}
 */
function withFreeId(kind, idWith, body, scope) {
  const existing = kindOf(scope, kind);
  const isTaken = (/** @type {string} */ id) =>
    existing.some(
      (rule) =>
        rule.rule_id === id &&
        !(isUnderstood(rule) && notifies(rule) === notifies(body) && asks(rule, body.conditions)),
    );
  let more = "";
  while (isTaken(idWith(more))) more += "_";
  return { kind, id: idWith(more), body };
}

/**
 * A room's rule for all devices, as Element writes it.
 *
 * @param {Choice} choice
 * @param {string} roomId
 * @param {RuleSet} [scope]  as it is: what others have there keeps its id
 * @returns {RuleWrite | null}
 */
export function everywhereRule(choice, roomId, scope) {
  if (choice === "muted") return muteRule(roomId, scope);
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

/** @param {{actions: Action[]}} rule */
const notifies = (rule) => rule.actions.includes("notify");

/** @param {Rule} rule */
const isSilent = (rule) => rule.actions.every((action) => action === "dont_notify");

/**
 * Whether a rule does nothing that the page does not know.
 *
 * @param {Rule} rule
 */
const isUnderstood = (rule) =>
  rule.actions.every((action) =>
    typeof action === "string"
      ? ["notify", "dont_notify", "coalesce"].includes(action)
      : ["sound", "highlight"].includes(action.set_tweak),
  );

const ANYBODY = "*";

/**
 * What a rule of that name asks for, whoever the user is.
 *
 * @param {typeof IN_ROOM} table
 * @param {string} name
 */
const asked = (table, name) =>
  Object.hasOwn(table, name) ? table[name]?.(ANYBODY) : undefined;

/**
 * Whether a rule has just these conditions, whoever the user is.
 *
 * @param {Rule} rule
 * @param {Condition[]} conditions
 */
function asks(rule, conditions) {
  const forAnybody = (/** @type {Condition} */ condition) => ({
    ...condition,
    ...(condition.key === "state_key" && { pattern: ANYBODY }),
    ...(condition.key === MENTIONED_KEY && { value: ANYBODY }),
  });
  return (
    canonical((rule.conditions ?? []).map(forAnybody)) === canonical(conditions.map(forAnybody))
  );
}

/**
 * JSON that is the same for the same members in another order.
 *
 * @param {unknown} value
 */
export function canonical(value) {
  return JSON.stringify(value, (_key, part) =>
    part && typeof part === "object" && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
}

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
  // Servers keep patterns of other apps that are no text.
  return typeof condition?.pattern === "string" ? condition.pattern : null;
}

/**
 * Whether it is a rule that the page may have written about a room, and its name there. Only its id
 * does not make it one.
 *
 * @param {string} kind
 * @param {Rule} rule
 * @returns {string | null}  "mute", or the name as in `roomRules`
 */
export function ourName(kind, rule) {
  const roomId = roomOf(kind, rule);
  if (roomId === null || !isUnderstood(rule)) return null;
  const here = matches("room_id", roomId);
  if (kind === "override") {
    const isOurs = [roomId, `mute:${roomId}`].includes(rule.rule_id.replace(/^mute_+:/, "mute:"));
    return isOurs && isSilent(rule) && asks(rule, [here]) ? "mute" : null;
  }
  if (kind !== "underride" || !rule.rule_id.endsWith(`:${roomId}`)) return null;
  const full = rule.rule_id.slice(0, -roomId.length - 1);
  if (full.startsWith("keyword:")) {
    const word = matches("content.body", wordOf(rule));
    return notifies(rule) && asks(rule, [here, word]) ? full : null;
  }
  const name = full.replace(/_+$/, "");
  const conditions = asked(IN_ROOM, name);
  const isOurs =
    conditions && asks(rule, [here, ...conditions]) && notifies(rule) === (name !== "quiet");
  return isOurs ? name : null;
}

/** @param {Rule} rule  with a condition on the text */
const wordOf = (rule) =>
  String(rule.conditions?.find((condition) => condition.key === "content.body")?.pattern);

/**
 * @param {string} kind
 * @param {Rule} rule
 */
export function isDirect(kind, rule) {
  const name = /^direct:([a-z]+)_*$/.exec(rule.rule_id)?.[1] ?? "";
  const conditions = asked(DIRECT, name);
  return Boolean(
    kind === "underride" && conditions && notifies(rule) && isUnderstood(rule) && asks(rule, conditions),
  );
}

/**
 * A keyword, whoever wrote it: a pattern, and nothing done that the page does not know.
 *
 * @param {string} kind
 * @param {Rule} rule
 */
export function isKeyword(kind, rule) {
  return (
    kind === "content" && !rule.default && rule.enabled && notifies(rule) && isUnderstood(rule)
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
    .map(([, rule]) => wordOf(rule));
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
 * What the rules of a device say of a room. Those of a device that goes by its own app are as apps
 * write them.
 *
 * @param {PushRules} rules
 * @param {Device} device
 * @param {string} roomId
 * @returns {Choice | "unfinished"}
 */
export function choiceOn(rules, device, roomId) {
  const scope = rules.device?.[device.id];
  if (!device.own) return roomChoice(scope, roomId).choice;
  const { choice } = everywhereChoice(scope, roomId);
  // The page was to write them anew when the device was given to its app, and did not get so far.
  const isLeft = ownRoomRules(scope, roomId).length > 0;
  return choice === "everywhere" && isLeft ? "unfinished" : choice;
}

/**
 * The rules of a device about a room as apps write them, which the page may have written.
 *
 * @param {RuleSet | undefined} scope  the device's
 * @returns {{roomId: string, choice: Choice, rule: RuleWrite}[]}
 */
export function rulesAsApps(scope) {
  return kindOf(scope, "room").flatMap((rule) => {
    const roomId = rule.rule_id;
    /** @type {Choice} */
    const choice = notifies(rule) ? "all" : "mentions";
    const written = /** @type {RuleWrite} */ (everywhereRule(choice, roomId));
    return canonical(rule.actions) === canonical(written.body.actions)
      ? [{ roomId, choice, rule: written }]
      : [];
  });
}

/**
 * The choices that are written in the page's way on a device, as apps write them.
 *
 * @param {RuleSet | undefined} scope  the device's
 * @returns {{roomId: string, rule: RuleWrite}[]}
 */
export function choicesAsApps(scope) {
  return roomsOf(scope).flatMap((roomId) => {
    const { choice } = roomChoice(scope, roomId);
    if (choice !== "all" && choice !== "mentions") return [];
    if (everywhereChoice(scope, roomId).taken) return [];
    return [{ roomId, rule: /** @type {RuleWrite} */ (everywhereRule(choice, roomId)) }];
  });
}

/**
 * The rooms that ring for mentions and keywords on a device, but not for these keywords.
 *
 * @param {RuleSet | undefined} scope  the device's
 * @param {string[]} words
 * @returns {{roomId: string, after: string, missing: string[], old: {kind: string, id: string}[]}[]}
 *   the rule that new ones come after, and what there is to be added and removed
 */
export function staleWords(scope, words) {
  return roomsOf(scope).flatMap((roomId) => {
    if (roomChoice(scope, roomId).choice !== "mentions") return [];
    const ours = kindOf(scope, "underride")
      .filter((rule) => roomOf("underride", rule) === roomId)
      .map((rule) => ({ rule, name: ourName("underride", rule) }));
    const copies = ours.filter(({ name }) => name?.startsWith("keyword:")).map(({ rule }) => rule);
    const there = new Set(copies.filter((rule) => rule.enabled).map(wordOf));
    const missing = words.filter((word) => !there.has(word));
    const old = copies
      .filter((rule) => !words.includes(wordOf(rule)))
      .map((rule) => ({ kind: "underride", id: rule.rule_id }));
    const after = ours.find(({ name }) => name === "mention")?.rule.rule_id ?? "";
    return missing.length || old.length ? [{ roomId, after, missing, old }] : [];
  });
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
  if (device.own) {
    const known = everywhereChoice(own, roomId).rules;
    return all(own).some(
      ({ kind, rule }) =>
        rule.enabled &&
        roomOf(kind, rule) === roomId &&
        ourName(kind, rule) === null &&
        !known.some((one) => one.kind === kind && one.id === rule.rule_id),
    );
  }
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
 * @param {RuleSet | undefined} scope  `global`
 * @param {string} roomId
 * @returns {{choice: Choice, rules: {kind: string, id: string}[], foreign: boolean, taken: boolean}}
 *   the rules that make the choice; `taken`: another app has the one `room` rule that there can be
 */
export function everywhereChoice(scope, roomId) {
  const mutes = kindOf(scope, "override").filter(
    (rule) => rule.conditions?.length === 1 && roomOf("override", rule) === roomId && isSilent(rule),
  );
  const rooms = kindOf(scope, "room").filter((rule) => rule.rule_id === roomId);
  const known = [
    ...mutes.map((rule) => ({ kind: "override", rule })),
    ...rooms.map((rule) => ({ kind: "room", rule })),
  ];
  const understood = known.filter(({ rule }) => isUnderstood(rule));
  const foreign = all(scope).some(
    ({ kind, rule }) =>
      !rule.default &&
      rule.enabled &&
      roomOf(kind, rule) === roomId &&
      !understood.some((one) => one.rule === rule),
  );
  const deciding = known.find(({ rule }) => rule.enabled);
  /** @type {Choice} */
  let choice = "everywhere";
  if (deciding?.kind === "override") choice = "muted";
  else if (deciding) choice = notifies(deciding.rule) ? "all" : "mentions";
  const rules = understood.map(({ kind, rule }) => ({ kind, id: rule.rule_id }));
  return { choice, rules, foreign, taken: !rooms.every(isUnderstood) };
}

/**
 * How a device follows what holds everywhere.
 *
 * @param {Device} device
 * @param {RuleSet | undefined} scope
 * @returns {Follow}
 */
export function followOf({ id: deviceId, tags, own }, scope) {
  if (own) return "app";
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

/**
 * @param {RuleSet | undefined} scope
 * @returns {string[]}
 */
export const wordsOf = (scope) => keywordsOf(scope).map((rule) => String(rule.pattern));

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
 * The name of the sentence that says what will happen on a device, and the words that it rings for.
 *
 * @param {PushRules} rules
 * @param {Room} room
 * @param {Device} device
 * @returns {{key: string, words: string[]}}
 */
export function deviceSentence(rules, room, device) {
  const key = deviceEffect(rules, room, device);
  const scope = rules.device?.[device.id];
  const own = isOwnFirst(device) && canSeeWords(room, device) ? wordsOf(scope) : [];
  const words = [...new Set([...(key === "mentions" ? roomChoice(scope, room.id).words : []), ...own])];
  return { key: words.length && WITH_WORDS.has(key) ? `${key}Words` : key, words };
}

/** What is said otherwise where a device rings for words of its own besides. */
const WITH_WORDS = new Set([
  "mentions",
  "notChosen",
  "ownOnly",
  "follows.mentions",
  "follows.muted",
  "app.mentions",
]);

/**
 * Whether what notifies sees the words of a message: the server, or a device that does it itself.
 *
 * @param {Room} room
 * @param {Device} device
 */
const canSeeWords = (room, device) => !room.encrypted || !device.pushers.length;

/**
 * @param {PushRules} rules
 * @param {Room} room
 * @param {Device} device
 */
function deviceEffect(rules, room, device) {
  if (device.own && device.on) return appEffect(rules, room, device);
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

/**
 * The same for a device that goes by its own app. What the app has changed of the rules that the
 * server brings is not seen here.
 *
 * @param {PushRules} rules
 * @param {Room} room
 * @param {Device} device
 */
function appEffect(rules, room, device) {
  const choice = choiceOn(rules, device, room.id);
  if (choice === "unfinished") return "unfinished";
  if (choice === "everywhere") {
    return isForeign(rules, device, room.id) ? "foreign" : "app.everywhere";
  }
  if (choice === "mentions" && !canSeeWords(room, device)) return "mentionsEncrypted";
  return `app.${choice}`;
}

/**
 * Whether a device goes by its own scope before that of all devices.
 *
 * @param {Device} device
 */
function isOwnFirst({ id, tags, own: isOwn }) {
  if (isOwn) return true;
  const own = tags.indexOf(id);
  return own >= 0 && (!tags.includes(GLOBAL) || own < tags.indexOf(GLOBAL));
}
