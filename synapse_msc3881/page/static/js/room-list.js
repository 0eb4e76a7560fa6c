// SPDX-License-Identifier: AGPL-3.0-or-later
/** A list of rooms to choose one from: searched, newest first, fifty at a time. */
import { Loading, Problem } from "./components.js";
import { html, useEffect, useId, useRef, useState } from "./html.js";
import { t } from "./i18n.js";

/** @import {Room} from "./types.js" */
/** @import {Store} from "./store.js" */

const PAGE = 50;

/** @param {string} text */
const folded = (text) =>
  text.normalize("NFKD").replace(/\p{Diacritic}/gu, "").toLocaleLowerCase();

/**
 * @param {{store: Store, hrefOf: (room: Room) => string, noteOf?: (room: Room) => string}} props
 */
export function RoomList({ store, hrefOf, noteOf }) {
  const [query, setQuery] = useState("");
  const [page, setPage] = useState(0);
  const top = useRef(/** @type {any} */ (null));
  const id = useId();
  useEffect(() => void store.readRooms(), []);

  const wanted = folded(query.trim());
  const found = wanted ? store.rooms.filter((room) => folded(room.name).includes(wanted)) : store.rooms;
  const pages = Math.max(Math.ceil(found.length / PAGE), 1);
  const shown = found.slice(page * PAGE, (page + 1) * PAGE);
  const turn = (/** @type {number} */ to) => {
    setPage(to);
    top.current.focus();
  };
  const search = (/** @type {any} */ event) => {
    setQuery(event.currentTarget.value);
    setPage(0);
  };
  return html`<label class="field search">
      <span>${t("rooms.search")}</span>
      <input type="search" autocomplete="off" value=${query} onInput=${search} />
    </label>
    <p class="meta" role="status" id=${id} tabindex="-1" ref=${top}>
      ${store.rooms.length > 0 && t("rooms.count", { count: found.length })}
      ${pages > 1 && html` · ${t("rooms.page", { page: page + 1, pages })}`}
      ${store.rooms.length > 0 && !store.roomsComplete && html` · ${t("rooms.more")}`}
    </p>
    <${Problem} error=${store.roomsError} onRetry=${() => store.readRooms()} />
    ${!store.rooms.length && !store.roomsComplete && !store.roomsError && html`<${Loading} />`}
    ${!found.length && store.roomsComplete && html`<p>${wanted ? t("rooms.noMatch") : t("rooms.none")}</p>`}
    <ul class="room-list" aria-describedby=${id}>
      ${shown.map(
        (room) =>
          html`<li key=${room.id}>
            <a href=${hrefOf(room)}>
              <bdi class="room-name">${room.name}</bdi>
              ${noteOf && html`<span class="hint">${noteOf(room)}</span>`}
            </a>
          </li>`,
      )}
    </ul>
    ${pages > 1 &&
    html`<nav class="actions" aria-label=${t("rooms.pages")}>
      <button
        type="button"
        class="button"
        disabled=${page === 0}
        onClick=${() => turn(page - 1)}
      >
        ${t("rooms.newer")}
      </button>
      <button
        type="button"
        class="button"
        disabled=${page + 1 >= pages}
        onClick=${() => turn(page + 1)}
      >
        ${t("rooms.older")}
      </button>
    </nav>`}`;
}
