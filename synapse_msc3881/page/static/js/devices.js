// SPDX-License-Identifier: AGPL-3.0-or-later
/** The user's devices, put together from what the server says of sessions, pushers and rules. */
import { SILENCED, WANTED } from "./client.js";
import { isVisible } from "./i18n.js";
import { GLOBAL } from "./rules.js";
import { isOwnSession } from "./session.js";

/** @import {Device, Pusher} from "./types.js" */

/**
 * @param {any[]} sessions  of GET /devices
 * @param {Pusher[]} pushers
 * @param {Record<string, any>} accountData  by type
 * @param {string} ownId  the page's own session, which is no device to the user
 * @param {Record<string, boolean>} ownSettings  by device, of those without a pusher
 * @returns {Device[]}  the last seen first
 */
export function devicesOf(sessions, pushers, accountData, ownId, ownSettings) {
  const shown = sessions.filter(
    ({ device_id: id }) => id !== ownId && !isOwnSession(id) && !isDehydrated(sessions, id),
  );
  const devices = shown.map((session) => {
    const id = session.device_id;
    const own = pushers.filter((pusher) => pusher["kind"] !== "email" && pusher["device_id"] === id);
    const device = deviceOf(id, session.display_name, session.last_seen_ts, own, accountData);
    return own.length ? device : { ...device, own: ownSettings[id] === true };
  });
  const known = new Set(sessions.map((session) => session.device_id));
  const strays = pushers
    .filter((pusher) => pusher["kind"] !== "email" && !known.has(pusher["device_id"]))
    .map((pusher) => ({ ...deviceOf("", "", undefined, [pusher], {}), id: strayId(pusher) }));
  return [...devices.sort((a, b) => (b.lastSeen ?? 0) - (a.lastSeen ?? 0)), ...strays];
}

/** @param {Pusher} pusher  of which the server does not know the device */
const strayId = (pusher) => `?${pusher["app_id"]} ${pusher["pushkey"]}`;

/** @param {Device} device  whether there can be a scope under the name of its session */
export const canHaveScope = (device) => !device.id.startsWith("?") && device.id !== GLOBAL;

/** @param {Device} device  whether something goes by a scope of its own, or can be made to */
export const canHaveOwn = (device) =>
  (device.pushers.length > 0 || device.own) && canHaveScope(device);

/**
 * @param {any[]} sessions
 * @param {string} id
 */
function isDehydrated(sessions, id) {
  const session = sessions.find((one) => one.device_id === id);
  return Boolean(session.dehydrated ?? session["org.matrix.msc3814.dehydrated"]);
}

/**
 * @param {string} id
 * @param {string | null | undefined} displayName
 * @param {number | null | undefined} lastSeen
 * @param {Pusher[]} pushers
 * @param {Record<string, any>} accountData
 * @returns {Device}
 */
function deviceOf(id, displayName, lastSeen, pushers, accountData) {
  const [first] = pushers;
  const tags = first?.["profile_tags"] ?? ["global"];
  const wanted = accountData[WANTED + id]?.profile_tags;
  const name = [displayName, first?.["device_display_name"], id].find(isVisible);
  return {
    id,
    name: name ?? "?",
    lastSeen: lastSeen ?? undefined,
    app: first?.["app_display_name"] || undefined,
    pushers,
    on: first
      ? pushers.some((pusher) => pusher["enabled"] !== false)
      : accountData[SILENCED + id]?.is_silenced !== true,
    tags,
    own: goByApp(pushers),
    reset: Boolean(first && Array.isArray(wanted) && wanted.includes(id) && !tags.includes(id)),
  };
}

/** @param {Pusher[]} pushers  of a device: whether they go by what is set in its own app */
export const goByApp = (pushers) => pushers[0]?.["org.matrix.msc3881.as_read"]?.own === true;

/**
 * @param {Pusher[]} pushers
 * @returns {Pusher[]}
 */
export const emailsOf = (pushers) => pushers.filter((pusher) => pusher["kind"] === "email");
