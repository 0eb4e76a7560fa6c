// SPDX-License-Identifier: AGPL-3.0-or-later
/** What the page knows of the account, and every change of it. Screens read it and call its methods. */
import { SILENCED, WANTED } from "./client.js";
import { canHaveScope, devicesOf, emailsOf, goByApp } from "./devices.js";
import { readRooms } from "./rooms.js";
import * as rules from "./rules.js";

/** @import {Client} from "./client.js" */
/** @import {Choice, Device, Follow, Pusher, PushRules, Room, RuleSet, RuleWrite} from "./types.js" */

const FRESH_MS = 30_000;
/** What was read just now is not read again because somebody comes back. */
const READ_MS = 5_000;
/** Of how many devices the server is asked whether they go by their own app. */
const MOST_ASKED = 20;
/** How many words are written or removed when the page is opened, at most. */
const MOST_WORDS = 100;

export class Store {
  /** @param {Client} client */
  constructor(client) {
    this.client = client;
    /** @type {Device[] | null} null until they are read */
    this.devices = null;
    /** @type {Pusher[]} */
    this.emails = [];
    /** @type {PushRules} */
    this.rules = { global: {} };
    /** @type {Room[]} */
    this.rooms = [];
    this.roomsComplete = false;
    this.isReadingRooms = false;
    /** When they were asked for last; 0 where that failed. */
    this.roomsAsked = 0;
    /** @type {any} why the rooms could not be read */
    this.roomsError = null;
    /** @type {Record<string, number>} since when the gateway of a device fails, by its id */
    this.failing = {};
    /** @type {Record<string, any>} */
    this.accountData = {};
    /** @type {any[]} */
    this.sessions = [];
    /** @type {Pusher[]} */
    this.pushers = [];
    /** @type {Set<() => void>} */
    this.listeners = new Set();
    this.queue = Promise.resolve();
    /** @type {Record<string, boolean>} which devices without a pusher go by their own app, by id */
    this.ownSettings = {};
    /** Whether the server lets devices go by their own app. */
    this.canGiveOwn = false;
    /** When all was asked for last; 0 where that failed. */
    this.readAt = 0;
    /** @type {{id: string, name: string, isTold: boolean, takeBack: () => Promise<void>} | null} how to
     *   undo that all but one device were silenced */
    this.undo = null;
  }

  /** @param {() => void} listener  called after each change; returns how to stop that */
  subscribe(listener) {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  changed() {
    for (const listener of this.listeners) listener();
  }

  get userId() {
    return this.client.userId;
  }

  /** @param {string} id */
  device(id) {
    return this.devices?.find((device) => device.id === id);
  }

  /** @param {string} id */
  room(id) {
    return this.rooms.find((room) => room.id === id);
  }

  /**
   * @param {string} deviceId
   * @returns {RuleSet | undefined}
   */
  scope(deviceId) {
    return this.rules.device?.[deviceId];
  }

  // ---- Reading ----

  /** Read the devices: three requests at once. */
  async readDevices() {
    const [sessions, pushers, accountData] = await Promise.all([
      this.client.devices(),
      this.client.pushers(),
      this.client.accountData(),
    ]);
    this.sessions = sessions;
    this.readAt = Date.now();
    this.pushers = pushers;
    this.accountData = accountData;
    this.rules = accountData["m.push_rules"] ?? this.rules;
    this.putTogether();
  }

  /** Read what a change, here or in another tab or app, may have changed: all but the sessions. */
  async refresh() {
    const [pushers, pushRules, accountData] = await Promise.all([
      this.client.pushers(),
      this.client.pushRules(),
      this.client.accountData(),
    ]);
    this.pushers = pushers;
    this.accountData = accountData;
    // Not those of the account data, which may come from a process that has not heard of a write yet.
    this.rules = pushRules;
    this.putTogether();
  }

  /** Read again after another change, so that no older answer comes last. */
  async readAgain() {
    // From now on, so that who comes back, of which a browser tells twice, does not have it read twice.
    this.readAt = Date.now();
    try {
      await this.change(async () => {
        this.sessions = await this.client.devices();
      });
    } catch (error) {
      this.readAt = 0;
      throw error;
    }
    await this.readTrouble();
    await this.readOwn();
  }

  /** Read again, unless that was done just now. */
  async readIfOld() {
    if (Date.now() - this.readAt > READ_MS) await this.readAgain();
  }

  /** Read again where devices were signed in or out. */
  async lookForDevices() {
    const ids = (/** @type {any[]} */ sessions) => String(sessions.map((one) => one.device_id).sort());
    if (ids(await this.client.devices()) !== ids(this.sessions)) await this.readAgain();
  }

  putTogether() {
    const places = new Map(this.devices?.map(({ id }, place) => [id, place]));
    const placeOf = (/** @type {Device} */ { id }) => places.get(id) ?? -1;
    // In the order in which they are shown already, so that none moves away from a finger; new ones first.
    this.devices = devicesOf(
      this.sessions,
      this.pushers,
      this.accountData,
      this.client.session.deviceId,
      this.ownSettings,
    ).sort((a, b) => placeOf(a) - placeOf(b));
    this.emails = emailsOf(this.pushers);
    this.changed();
  }

  /** Read the rooms, unless they were read just now. */
  async readRooms() {
    // A server may need longer for them than they stay fresh.
    if (this.isReadingRooms || Date.now() - this.roomsAsked < FRESH_MS) return;
    this.isReadingRooms = true;
    this.roomsAsked = Date.now();
    this.roomsError = null;
    try {
      await readRooms(this.client, (rooms, complete) => {
        // A list that is there stays until there is as much of the new one.
        if (complete || rooms.length >= this.rooms.length) this.rooms = rooms;
        this.roomsComplete ||= complete;
        this.changed();
      });
    } catch (error) {
      this.roomsAsked = 0;
      this.roomsError = error;
      this.changed();
    } finally {
      this.isReadingRooms = false;
    }
  }

  /**
   * Ask about any message whether the gateways of the devices fail: what the server tells of it holds
   * for the pushers as they are now.
   */
  async readTrouble() {
    const room = this.rooms.find((one) => one.lastEvent);
    if (!room) return;
    const answer = await this.client
      .explain(room.id, /** @type {string} */ (room.lastEvent))
      .catch(() => null);
    this.failing = {};
    for (const pusher of answer?.pushers ?? []) {
      if (pusher.failing_since) this.failing[pusher.device_id] = pusher.failing_since;
    }
    this.changed();
  }

  /**
   * Ask which devices go by their own app. Pushers tell of theirs; of another device the server knows
   * whether it lets them at all.
   */
  async readOwn() {
    const known = (this.devices ?? []).filter(canHaveScope);
    const silent = known.filter((device) => !device.pushers.length).slice(0, MOST_ASKED);
    const [first, ...rest] = silent.length ? silent : known.slice(0, 1);
    if (!first) return;
    // Where no answer comes, what was known before still counts.
    const before = { ...this.ownSettings };
    const asked = (/** @type {Device} */ { id }) => this.client.hasOwnSettings(id).catch(() => undefined);
    const answer = await asked(first);
    if (answer !== undefined) this.canGiveOwn = answer !== null;
    if (!this.canGiveOwn) return;
    const answers = [answer, ...(await Promise.all(rest.map(asked)))];
    for (const [index, { id }] of [first, ...rest].entries()) {
      // What was chosen since is newer than the answer.
      if (this.ownSettings[id] === before[id]) this.ownSettings[id] = answers[index] ?? before[id] ?? false;
    }
    this.putTogether();
  }

  // ---- Changing ----

  /**
   * One change after the other. Whatever becomes of it, what the server holds is read after.
   *
   * @template T
   * @param {() => Promise<T>} change
   * @returns {Promise<T>}
   */
  change(change) {
    const result = this.queue.then(async () => {
      try {
        const value = await change();
        await this.refresh();
        return value;
      } catch (error) {
        // What is known of it is shown all the same.
        await this.refresh().catch(() => this.changed());
        throw error;
      }
    });
    this.queue = result.then(
      () => undefined,
      () => undefined,
    );
    return result;
  }

  /**
   * Set pushers as they are on the server by now.
   *
   * @param {(pusher: Pusher) => {enabled?: boolean, profile_tags?: string[]} | null} wanted
   */
  async setPushers(wanted) {
    /** @type {Pusher[]} as they were */
    const changed = [];
    try {
      for (const pusher of await this.client.pushers()) {
        const change = wanted(pusher);
        if (!change || holds(pusher, change)) continue;
        changed.push(pusher);
        await this.client.setPusher(pusher, change);
      }
    } catch (/** @type {any} */ error) {
      // What was refused was not done. An answer that did not come says nothing.
      if (error.status >= 400 && error.status < 500) changed.pop();
      for (const { enabled, profile_tags, ...pusher } of changed) {
        await this.client.setPusher(pusher, { enabled, profile_tags }).catch(() => null);
      }
      throw error;
    }
  }

  /**
   * @param {Device} device
   * @param {boolean} on
   */
  setOn(device, on) {
    return this.change(() => this.switch(device, on));
  }

  /**
   * @param {Device} device
   * @param {boolean} on
   */
  async switch(device, on) {
    if (device.pushers.length) {
      await this.setPushers((pusher) => (isOf(pusher, device) ? { enabled: on } : null));
    } else {
      await this.silence(device.id, !on);
    }
  }

  /**
   * @param {string} deviceId  of a device that makes its notifications itself
   * @param {boolean} silenced
   */
  async silence(deviceId, silenced) {
    const type = SILENCED + deviceId;
    const now = (await this.client.accountData())[type];
    await this.client.putAccountData(type, { ...now, is_silenced: silenced });
  }

  /**
   * @param {Pusher} email
   * @param {boolean} on
   */
  setEmailOn(email, on) {
    return this.change(() =>
      this.setPushers((pusher) => (isSame(pusher, email) ? { enabled: on } : null)),
    );
  }

  /**
   * Switch all devices off but one.
   *
   * Leaves in `undo` what brings back all that was on, also after several of these.
   *
   * @param {Device} kept
   */
  silenceAllBut(kept) {
    return this.change(async () => {
      await this.refresh();
      // A device may have several pushers, of which some are off: they go back to what they were.
      const before = this.pushers;
      /** @type {{device: Device, on: boolean}[]} */
      const changed = [];
      const takeBack = async () => {
        for (const { device, on } of changed) {
          if (!device.pushers.length) await this.silence(device.id, !on);
        }
        const devices = changed.map(({ device }) => device);
        await this.setPushers((pusher) => {
          const was = before.find((one) => isSame(one, pusher));
          const isChanged = was && devices.some((device) => isOf(was, device));
          return isChanged ? { enabled: was["enabled"] !== false } : null;
        });
      };
      try {
        /** @type {Device[]} */
        const devices = this.devices ?? [];
        const first = devices.filter((device) => device.id === kept.id && !device.on);
        for (const device of [...first, ...devices.filter(({ id, on }) => on && id !== kept.id)]) {
          changed.push({ device, on: device.on });
          await this.switch(device, !device.on);
        }
      } catch (error) {
        await takeBack().catch(() => null);
        throw error;
      }
      const earlier = this.undo;
      const takeBackAll = async () => {
        await takeBack();
        await earlier?.takeBack();
      };
      // Before anything else can fail; shown with what is read next, of which it tells.
      this.undo = { id: kept.id, name: kept.name, isTold: false, takeBack: takeBackAll };
    });
  }

  /** Bring back all that was on before devices were silenced. */
  async undoSilence() {
    // At once, so that nothing comes between.
    await this.change(async () => this.undo?.takeBack());
    this.forgetUndo();
  }

  forgetUndo() {
    this.undo = null;
    this.changed();
  }

  /**
   * @param {Device} device
   * @param {string[]} tags
   */
  setTags(device, tags) {
    return this.change(() => this.attach(device, () => tags));
  }

  /**
   * Let two entries of a device's list change places, unless they are in this order by now. Who presses a
   * button twice does not mean to take back what it does.
   *
   * @param {Device} device
   * @param {string} first
   * @param {string} second
   */
  putTagBefore(device, first, second) {
    const swapped = new Map([
      [first, second],
      [second, first],
    ]);
    const isAfter = (/** @type {string[]} */ tags) =>
      tags.includes(second) && tags.indexOf(first) > tags.indexOf(second);
    return this.change(() =>
      this.attach(device, (tags) =>
        isAfter(tags) ? tags.map((tag) => swapped.get(tag) ?? tag) : tags,
      ),
    );
  }

  /**
   * @param {Device} device
   * @param {(tags: string[]) => string[]} change  of the tags as they are by now
   */
  async attach(device, change) {
    let tags = device.tags;
    await this.setPushers((pusher) => {
      if (!isOf(pusher, device)) return null;
      tags = change(pusher["profile_tags"] ?? [rules.GLOBAL]);
      return { profile_tags: tags };
    });
    await this.note(device.id, tags);
  }

  /** @param {Device} device  whose own settings are to count */
  attachOwn(device) {
    return this.attach(device, (tags) => rules.tagsWithOwn(device.id, tags));
  }

  /**
   * Note what was set, to see when the device's app undoes it. Nothing depends on it.
   *
   * @param {string} deviceId
   * @param {string[]} tags
   */
  async note(deviceId, tags) {
    const type = WANTED + deviceId;
    try {
      const before = (await this.client.accountData())[type]?.profile_tags ?? [rules.GLOBAL];
      if (String(before) === String(tags)) return;
      await this.client.putAccountData(type, { profile_tags: tags });
    } catch {
      // Then nobody is told when the app undoes it.
    }
  }

  /**
   * @param {Device} device
   * @param {Follow} follow
   */
  setFollow(device, follow) {
    if (follow === "app") return this.change(() => this.giveOwn(device));
    return this.change(async () => {
      await this.refuseIfOwn(device);
      if (device.own) await this.takeOwn(device);
      if (!device.pushers.length) return;
      const scope = (await this.client.pushRules()).device?.[device.id];
      const direct = follow === "chosen" ? rules.directRules(this.userId, scope) : [];
      /** @type {Record<string, string[]>} */
      const tags = {
        everywhere: [rules.GLOBAL],
        "own-first": [device.id, rules.GLOBAL],
        "own-only": [device.id],
        chosen: [device.id],
      };
      await this.writeInOrder(
        device.id,
        direct,
        scope,
        () => this.attach(device, () => /** @type {string[]} */ (tags[follow])),
        rules.lastRoomRule(scope),
      );
      if (follow !== "chosen") await this.deleteAll(device.id, rules.ownDirectRules(scope));
    });
  }

  /**
   * Whether a device goes by its own app by now, which any session may have changed.
   *
   * @param {Device} device
   */
  async isOwnNow(device) {
    const pushers = (await this.client.pushers()).filter((pusher) => isOf(pusher, device));
    if (pushers.length) return goByApp(pushers);
    if (!this.canGiveOwn && !device.own) return false;
    this.ownSettings[device.id] = (await this.client.hasOwnSettings(device.id)) ?? device.own;
    return this.ownSettings[device.id] === true;
  }

  /**
   * Change nothing of a device that goes by its own app where nobody was asked about what that removes.
   *
   * @param {Device} device  as it was shown
   */
  async refuseIfOwn(device) {
    if (!device.own && (await this.isOwnNow(device))) throw new rules.GoesByAppError();
  }

  /**
   * Let a device go by its own app. It begins with a copy of what holds everywhere, below what is set for
   * the device; so that its app shows that too, it is written as apps do.
   *
   * @param {Device} device
   */
  async giveOwn(device) {
    const scope = (await this.client.pushRules()).device?.[device.id];
    const choices = rules.choicesAsApps(scope);
    // What rings goes before: until the copy is there, the others would keep mentions silent.
    const isLoud = (/** @type {{rule: RuleWrite}} */ { rule }) => rule.body.actions.length > 0;
    await this.writeInOrder(
      device.id,
      choices.filter(isLoud).map(({ rule }) => rule),
      scope,
      () => this.switchOwnOn(device.id),
      undefined,
      () => this.mayBeOwn(device.id),
    );
    this.ownSettings[device.id] = true;
    // Next, as it is by this that the page knows a device that goes by its app.
    if (device.pushers.length) await this.attach(device, () => [rules.GLOBAL]);
    for (const { rule } of choices.filter((one) => !isLoud(one))) {
      await this.client.putRule(device.id, rule);
    }
    const old = choices.flatMap(({ roomId }) => rules.ownRoomRules(scope, roomId));
    await this.deleteAll(device.id, [...old, ...rules.ownDirectRules(scope)]);
  }

  /**
   * Where the answer is lost, it counts what the server says after.
   *
   * @param {string} deviceId
   */
  async switchOwnOn(deviceId) {
    try {
      await this.client.setOwnSettings(deviceId, true);
    } catch (error) {
      if ((await this.client.hasOwnSettings(deviceId).catch(() => null)) !== true) throw error;
    }
  }

  /**
   * Whether a device may go by its own app: also where the server does not say.
   *
   * @param {string} deviceId
   */
  async mayBeOwn(deviceId) {
    return (await this.client.hasOwnSettings(deviceId).catch(() => true)) === true;
  }

  /** @param {Device} device  which is to go by its own app no longer */
  async switchOwnOff(device) {
    await this.client.setOwnSettings(device.id, false);
    this.ownSettings[device.id] = false;
  }

  /**
   * Let a device go by its own app no longer. What was set for its rooms on this page stays, written as
   * the page does.
   *
   * @param {Device} device
   */
  async takeOwn(device) {
    await this.switchOwnOff(device);
    const now = await this.client.pushRules();
    const scope = now.device?.[device.id];
    const words = rules.wordsOf(now.global);
    for (const { roomId, choice, rule } of rules.rulesAsApps(scope)) {
      const wanted = rules.roomRules(choice, roomId, this.userId, words, scope);
      await this.writeInOrder(device.id, wanted, scope);
      await this.deleteAll(device.id, [rule]);
    }
  }

  /**
   * @param {Device} device
   * @param {string} roomId
   * @param {Choice} choice
   */
  setRoom(device, roomId, choice) {
    return this.change(async () => {
      if (await this.isOwnNow(device)) return this.setShared(device.id, roomId, choice);
      // A web client that goes by what is set everywhere by now.
      if (!device.pushers.length) return;
      const now = await this.client.pushRules();
      const scope = now.device?.[device.id];
      const words = rules.wordsOf(now.global);
      const wanted = rules.roomRules(choice, roomId, this.userId, words, scope);
      await this.writeInOrder(device.id, wanted, scope, async () => {
        if (wanted.length) await this.attachOwn(device);
      });
      const kept = new Set(wanted.map(nameOf));
      const old = rules.ownRoomRules(scope, roomId).filter((rule) => !kept.has(nameOf(rule)));
      await this.deleteAll(device.id, old);
    });
  }

  /**
   * Have the rooms that are set to "Mentions and keywords" on a device ring for the account's keywords
   * as they are by now: the device has copies of them. What does not get done is done the next time.
   */
  async followWords() {
    const words = rules.wordsOf(this.rules.global);
    /** @type {Device[]} */
    const devices = this.devices ?? [];
    const isBehind = devices.some((one) => rules.staleWords(this.scope(one.id), words).length > 0);
    if (!isBehind) return;
    await this.change(async () => {
      const now = await this.client.pushRules();
      const wanted = rules.wordsOf(now.global);
      let left = MOST_WORDS;
      for (const { id } of devices) {
        const scope = now.device?.[id];
        for (const { roomId, after, missing, old } of rules.staleWords(scope, wanted)) {
          const added = missing.slice(0, left);
          const removed = old.slice(0, left - added.length);
          left -= added.length + removed.length;
          for (const word of added) {
            await this.client.putRule(id, rules.wordRule(word, roomId, scope), after);
          }
          await this.deleteAll(id, removed);
        }
      }
    }).catch(() => null);
  }

  /**
   * @param {string} roomId
   * @param {Choice} choice
   */
  setEverywhere(roomId, choice) {
    return this.change(() => this.setShared(rules.GLOBAL, roomId, choice));
  }

  /**
   * Set a room in rules that apps read. What the page has written in its own way goes.
   *
   * @param {string} scopeName
   * @param {string} roomId
   * @param {Choice} choice
   */
  async setShared(scopeName, roomId, choice) {
    const now = await this.client.pushRules();
    const scope = scopeName === rules.GLOBAL ? now.global : now.device?.[scopeName];
    const wanted = rules.everywhereRule(choice, roomId, scope);
    const { rules: understood, taken } = rules.everywhereChoice(scope, roomId);
    const old =
      scopeName === rules.GLOBAL
        ? understood
        : [...understood, ...rules.ownRoomRules(scope, roomId).filter(({ kind }) => kind !== "override")];
    const needsIt = wanted ? wanted.kind === "room" : !old.length;
    if (taken && needsIt) throw new rules.TakenError();
    if (wanted) await this.writeInOrder(scopeName, [wanted], scope);
    await this.deleteAll(
      scopeName,
      old.filter((rule) => !wanted || nameOf(rule) !== nameOf(wanted)),
    );
  }

  /**
   * @param {Device} device
   * @param {string} word
   * @param {boolean} sound
   */
  setKeyword(device, word, sound) {
    return this.change(async () => {
      const scope = (await this.client.pushRules()).device?.[device.id];
      const same = rules.keywordsOf(scope).find((rule) => rule.pattern === word);
      const rule = rules.keywordRule(word, sound, same?.rule_id ?? rules.freeKeywordId(scope, word));
      await this.writeInOrder(device.id, [rule], scope, async () => {
        if (!device.own) await this.attachOwn(device);
      });
    });
  }

  /**
   * @param {Device} device
   * @param {string} word
   */
  removeKeyword(device, word) {
    return this.change(async () => {
      const scope = (await this.client.pushRules()).device?.[device.id];
      const same = rules.keywordsOf(scope).filter((rule) => rule.pattern === word);
      await this.deleteAll(
        device.id,
        same.map((rule) => ({ kind: "content", id: rule.rule_id })),
      );
    });
  }

  /**
   * As everywhere, and none of the page's rules left.
   *
   * @param {Device} device
   */
  reset(device) {
    return this.change(async () => {
      await this.refuseIfOwn(device);
      if (device.own) await this.switchOwnOff(device);
      const scope = (await this.client.pushRules()).device?.[device.id];
      const asApps = device.own ? rules.rulesAsApps(scope).map(({ rule }) => rule) : [];
      await this.attach(device, (tags) => {
        const rest = tags.filter((tag) => tag !== device.id);
        return rest.length ? rest : [rules.GLOBAL];
      });
      await this.deleteAll(device.id, [
        ...asApps,
        ...rules.ownRoomRules(scope, null),
        ...rules.ownDirectRules(scope),
        ...rules.keywordsOf(scope).map((rule) => ({ kind: "content", id: rule.rule_id })),
      ]);
    });
  }

  /**
   * Write rules so that they stand in this order, before others of their kind, and then do what needs
   * them. What is as it should be is left alone. When it fails, what was not there before goes again.
   *
   * @param {string} scopeName
   * @param {RuleWrite[]} wanted
   * @param {RuleSet | undefined} scope  as it is
   * @param {() => Promise<void>} [then]
   * @param {{kind: string, id: string}} [above]  a rule that they are to come after
   * @param {() => Promise<boolean>} [isNeeded]  whether something may go by them though `then` failed;
   *   without, whether a pusher may
   */
  async writeInOrder(
    scopeName,
    wanted,
    scope,
    then,
    above,
    isNeeded = () => this.mayBeListed(scopeName),
  ) {
    const existing = new Map(
      ["override", "content", "room", "underride"].flatMap((kind) =>
        (scope?.[kind] ?? []).map((rule) => [nameOf({ kind, id: rule.rule_id }), rule]),
      ),
    );
    const names = [...(above ? [above] : []), ...wanted].map(nameOf);
    const order = [...existing.keys()].filter((name) => names.includes(name));
    const isThere =
      String(order) === String(names) &&
      wanted.every((rule) => isSameRule(rule, existing.get(nameOf(rule))));
    /** @type {RuleWrite[]} */
    const written = [];
    let areWritten = false;
    try {
      for (const [index, rule] of (isThere ? [] : wanted).entries()) {
        written.push(rule);
        await this.client.putRule(scopeName, rule, (wanted[index - 1] ?? above)?.id);
        if (existing.get(nameOf(rule))?.enabled === false) {
          await this.client.enableRule(scopeName, rule.kind, rule.id);
        }
      }
      areWritten = true;
      await then?.();
    } catch (error) {
      // Where it cannot be taken back that a device goes by them, it needs them.
      if (areWritten && (await isNeeded())) throw error;
      const fresh = written.filter((rule) => !existing.has(nameOf(rule)));
      for (const { kind, id } of fresh.reverse()) {
        await this.client.deleteRule(scopeName, kind, id).catch(() => null);
      }
      throw error;
    }
  }

  /**
   * Whether a pusher may go by a scope: also where the server does not say.
   *
   * @param {string} scopeName
   */
  async mayBeListed(scopeName) {
    const pushers = await this.client.pushers().catch(() => null);
    return pushers?.some((pusher) => pusher["profile_tags"]?.includes(scopeName)) ?? true;
  }

  /**
   * @param {string} scopeName
   * @param {{kind: string, id: string}[]} old
   */
  async deleteAll(scopeName, old) {
    for (const { kind, id } of old) await this.client.deleteRule(scopeName, kind, id);
  }
}

/** @param {{kind: string, id: string}} rule */
const nameOf = ({ kind, id }) => `${kind}/${id}`;

/**
 * @param {RuleWrite} wanted
 * @param {any} rule
 */
function isSameRule(wanted, rule) {
  const { actions, conditions, pattern } = wanted.body;
  const same = (/** @type {unknown} */ a, /** @type {unknown} */ b) => rules.canonical(a) === rules.canonical(b);
  return (
    rule.enabled &&
    same(actions, rule.actions) &&
    same(conditions ?? [], wanted.kind === "room" ? [] : (rule.conditions ?? [])) &&
    same(pattern, rule.pattern)
  );
}

/**
 * @param {Pusher} a
 * @param {Pusher} b
 */
const isSame = (a, b) => a["app_id"] === b["app_id"] && a["pushkey"] === b["pushkey"];

/**
 * @param {Pusher} pusher
 * @param {Device} device
 */
function isOf(pusher, device) {
  if (pusher["kind"] === "email") return false;
  if (!device.id.startsWith("?")) return pusher["device_id"] === device.id;
  return device.pushers.some((one) => isSame(one, pusher));
}

/**
 * @param {Pusher} pusher
 * @param {{enabled?: boolean, profile_tags?: string[]}} change
 */
function holds(pusher, change) {
  return (
    (change.enabled === undefined || pusher["enabled"] === change.enabled) &&
    (change.profile_tags === undefined ||
      String(pusher["profile_tags"]) === String(change.profile_tags))
  );
}
