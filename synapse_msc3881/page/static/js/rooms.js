// SPDX-License-Identifier: AGPL-3.0-or-later
/** The user's rooms: from sliding sync in growing windows, or from one sync where there is none. */

import { isVisible } from "./i18n.js";

/** @import {Client} from "./client.js" */
/** @import {Room} from "./types.js" */

// The first window is what a screen shows. The next ones grow, so that they are few and none takes long.
const FIRST = 50;
const SECOND = 500;
const BETWEEN_WINDOWS_MS = 100;
const STATE = [["m.room.encryption", ""]];
const KEY = "synapse_msc3881.connection";

/**
 * The name of this tab's connection: with the same one, two tabs would end each other's. It stays
 * for the tab, as the server keeps what it has sent on each.
 *
 * @param {boolean} isNew
 */
function connection(isNew) {
  const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
  if (typeof kept === "string" && !isNew) return kept;
  const made = `rooms-${crypto.getRandomValues(new Uint32Array(1))[0]?.toString(36)}`;
  sessionStorage.setItem(KEY, JSON.stringify(made));
  return made;
}

/**
 * Read all rooms, and tell of them as they come.
 *
 * @param {Client} client
 * @param {(rooms: Room[], complete: boolean) => void} onRooms
 */
export async function readRooms(client, onRooms) {
  try {
    await readWindows(client, onRooms, connection(false)).catch((error) => {
      // The tab was copied, and the other one has taken it over.
      if (error.errcode !== "M_UNKNOWN_POS") throw error;
      return readWindows(client, onRooms, connection(true));
    });
  } catch (/** @type {any} */ error) {
    if (error.errcode !== "M_UNRECOGNIZED" && error.status !== 404) throw error;
    await readSync(client, onRooms);
  }
}

/**
 * @param {Client} client
 * @param {(rooms: Room[], complete: boolean) => void} onRooms
 * @param {string} name  of the connection
 */
async function readWindows(client, onRooms, name) {
  /** @type {Map<string, Room>} */
  const rooms = new Map();
  let pos;
  for (let step = 0; ; step++) {
    const size = step === 0 ? FIRST : SECOND * 2 ** (step - 1);
    const list = {
      ranges: [[0, size - 1]],
      required_state: STATE,
      timeline_limit: 1,
    };
    const answer = await client.slidingSync({ conn_id: name, lists: { rooms: list } }, pos);
    pos = answer.pos;
    for (const [id, room] of Object.entries(answer.rooms ?? {})) {
      if (!isJoined(room)) continue;
      rooms.set(id, roomOf(id, /** @type {any} */ (room)));
    }
    const complete = (answer.lists?.rooms?.count ?? 0) <= size;
    onRooms(sorted(rooms), complete);
    if (complete) return;
    // What there is is shown first: reading thousands of rooms takes the browser and the server a while.
    await new Promise((resolve) => setTimeout(resolve, BETWEEN_WINDOWS_MS));
  }
}

/** @param {any} room */
const isJoined = (room) => !room.invite_state && !room.stripped_state;

/**
 * @param {string} id
 * @param {any} room
 * @returns {Room}
 */
function roomOf(id, room) {
  const heroes = (room.heroes ?? []).map((/** @type {any} */ h) => [h.displayname, h.user_id].find(isVisible));
  const last = room.timeline?.at(-1);
  return {
    id,
    name: nameOf(room.name, heroes, id),
    stamp: room.bump_stamp ?? 0,
    members: room.joined_count ?? 0,
    encrypted: (room.required_state ?? []).some(isEncryption),
    lastEvent: last?.event_id,
  };
}

/** @param {any} event */
const isEncryption = (event) => event.type === "m.room.encryption" && event.state_key === "";

/**
 * @param {unknown} name  whatever another server let through
 * @param {string[]} heroes
 * @param {string} id
 * @returns {string}
 */
function nameOf(name, heroes, id) {
  return [name, heroes.join(", ")].find(isVisible)?.trim() ?? id;
}

/** @param {Map<string, Room>} rooms */
const sorted = (rooms) => [...rooms.values()].sort((a, b) => b.stamp - a.stamp);

/**
 * @param {Client} client
 * @param {(rooms: Room[], complete: boolean) => void} onRooms
 */
async function readSync(client, onRooms) {
  const none = { types: [] };
  const types = ["m.room.name", "m.room.canonical_alias", "m.room.encryption"];
  const answer = await client.sync({
    presence: none,
    account_data: none,
    room: {
      timeline: { limit: 1 },
      state: { types, lazy_load_members: true },
      ephemeral: none,
      account_data: none,
    },
  });
  /** @type {Map<string, Room>} */
  const rooms = new Map();
  for (const [id, room] of Object.entries(/** @type {Record<string, any>} */ (answer.rooms?.join ?? {}))) {
    const timeline = room.timeline?.events ?? [];
    const state = [...(room.state?.events ?? []), ...timeline];
    const content = (/** @type {string} */ type) =>
      state.findLast((e) => e.type === type && e.state_key === "")?.content;
    const last = timeline.at(-1);
    rooms.set(id, {
      id,
      name: nameOf(
        [content("m.room.name")?.name, content("m.room.canonical_alias")?.alias].find(isVisible),
        room.summary?.["m.heroes"] ?? [],
        id,
      ),
      stamp: last?.origin_server_ts ?? 0,
      members: room.summary?.["m.joined_member_count"] ?? 0,
      encrypted: state.some(isEncryption),
      lastEvent: last?.event_id,
    });
  }
  onRooms(sorted(rooms), true);
}
