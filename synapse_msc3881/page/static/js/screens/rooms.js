// SPDX-License-Identifier: AGPL-3.0-or-later
/** "Rooms": all of them; and one room, with what is set for it everywhere and on each device. */
import {
  Choices,
  Loading,
  Title,
  choiceLabel,
  choiceOptions,
  sentenceEverywhere,
  sentenceOnDevice,
} from "../components.js";
import { canHaveOwn } from "../devices.js";
import { html, useEffect } from "../html.js";
import { t } from "../i18n.js";
import { RoomList } from "../room-list.js";
import { link } from "../router.js";
import * as rules from "../rules.js";

/** @import {Choice, Device, Room} from "../types.js" */
/** @import {Store} from "../store.js" */

/** @param {{store: Store}} props */
export function Rooms({ store }) {
  return html`<${Title} lead=${t("rooms.lead")}>${t("rooms.title")}<//>
    <${RoomList}
      store=${store}
      hrefOf=${(/** @type {Room} */ room) => link("rooms", room.id)}
      noteOf=${(/** @type {Room} */ room) => summary(store, room)}
    />`;
}

/**
 * What is set for a room, and nothing where nothing is.
 *
 * @param {Store} store
 * @param {Room} room
 */
function summary(store, room) {
  const parts = [];
  const { choice } = rules.everywhereChoice(store.rules.global, room.id);
  if (choice !== "everywhere") {
    parts.push(t("rooms.set", { where: t("room.everywhere"), what: choiceLabel(choice) }));
  }
  for (const device of store.devices ?? []) {
    const own = rules.choiceOn(store.rules, device, room.id);
    if (own !== "everywhere") {
      parts.push(t("rooms.set", { where: device.name, what: choiceLabel(own) }));
    } else if (rules.isForeign(store.rules, device, room.id)) {
      parts.push(t("rooms.set", { where: device.name, what: t("foreign.short") }));
    }
  }
  return parts.join(" · ");
}

/** @param {{store: Store, id: string}} props */
export function RoomScreen({ store, id }) {
  useEffect(() => void store.readRooms(), []);
  const known = store.room(id);
  const parent = { href: link("rooms"), label: t("rooms.title") };
  if (!known && !store.roomsComplete && !store.roomsError) {
    return html`<${Title} parent=${parent}>${t("room.title")}<//><${Loading} />`;
  }
  const room = known ?? { id, name: id, stamp: 0, members: 0, encrypted: false };
  const devices = store.devices ?? [];
  const web = devices.filter((device) => !canHaveOwn(device));
  return html`<${Title} parent=${parent}><bdi>${room.name}</bdi><//>
    ${!known && html`<p class="notice warning">${t("room.unknown")}</p>`}
    ${room.encrypted && html`<p class="notice">${t("room.encrypted")}</p>`}
    <${Everywhere} store=${store} room=${room} />
    ${devices
      .filter(canHaveOwn)
      .map((device) => html`<${OnDevice} key=${device.id} store=${store} room=${room} device=${device} />`)}
    ${web.length > 0 &&
    html`<section class="card">
      ${web.map(
        (device) =>
          html`<h2 key=${device.id}><bdi>${device.name}</bdi></h2>
            <p>${sentenceOnDevice(store, room, device)}</p>`,
      )}
    </section>`}
    <p class="further"><a class="button" href=${link("why", room.id)}>${t("room.why")}</a></p>`;
}

/** @param {{store: Store, room: Room}} props */
function Everywhere({ store, room }) {
  const { choice, foreign } = rules.everywhereChoice(store.rules.global, room.id);
  const [first, ...rest] = choiceOptions();
  const options = [{ ...first, label: t("choice.default") }, ...rest];
  return html`<section class="card">
    <${Choices}
      compact
      legend=${html`<h2>${t("room.everywhere")}</h2>`}
      name="everywhere"
      options=${options}
      value=${choice}
      note=${sentenceEverywhere(store, room)}
      onChange=${(/** @type {Choice} */ chosen) => store.setEverywhere(room.id, chosen)}
    />
    ${foreign && html`<p class="notice">${t("foreign.room")}</p>`}
  </section>`;
}

/** @param {{store: Store, room: Room, device: Device}} props */
function OnDevice({ store, room, device }) {
  const choice = rules.choiceOn(store.rules, device, room.id);
  const [first, ...rest] = choiceOptions();
  const options = device.own ? [{ ...first, label: t("choice.app") }, ...rest] : [first, ...rest];
  return html`<section class="card">
    <${Choices}
      compact
      legend=${html`<h2><bdi>${device.name}</bdi></h2>`}
      name=${`device-${device.id}`}
      options=${options}
      value=${choice}
      note=${sentenceOnDevice(store, room, device)}
      onChange=${(/** @type {Choice} */ chosen) => store.setRoom(device, room.id, chosen)}
    />
    ${choice !== "everywhere" &&
    rules.isForeign(store.rules, device, room.id) &&
    html`<p class="notice">${t("foreign.room")}</p>`}
  </section>`;
}
