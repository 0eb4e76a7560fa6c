// SPDX-License-Identifier: AGPL-3.0-or-later
/** "Why did it ring?": the last messages of a room, and what each device made of one of them. */
import { Loading, Problem, Title } from "../components.js";
import { html, useEffect, useState } from "../html.js";
import { dateTime, isVisible, isoTime, t } from "../i18n.js";
import { RoomList } from "../room-list.js";
import { link } from "../router.js";
import * as rules from "../rules.js";

/** @import {Device, Room, RuleSet} from "../types.js" */
/** @import {Store} from "../store.js" */

const TYPES = ["m.room.message", "m.room.encrypted", "m.sticker", "m.call.invite"];
const LONGEST = 300;
/** What may have become of a push, what counts most first. */
const STATES = ["sent", "waiting", "unknown", "not_sent"];

/** @param {{store: Store, roomId?: string, eventId?: string}} props */
export function Why({ store, roomId, eventId }) {
  if (roomId === undefined) {
    return html`<${Title} lead=${t("why.lead")}>${t("why.title")}<//>
      <${RoomList} store=${store} hrefOf=${(/** @type {Room} */ room) => link("why", room.id)} />`;
  }
  return eventId === undefined
    ? html`<${Messages} key=${roomId} store=${store} roomId=${roomId} />`
    : html`<${Explained} key=${eventId} store=${store} roomId=${roomId} eventId=${eventId} />`;
}

/**
 * @template T
 * @param {() => Promise<T>} read
 * @returns {{value: T | null, error: any, again: () => void}}
 */
function useRead(read) {
  const [value, setValue] = useState(/** @type {T | null} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const again = () => {
    setError(null);
    read().then(setValue, setError);
  };
  useEffect(again, []);
  return { value, error, again };
}

/** @param {{store: Store, roomId: string}} props */
function Messages({ store, roomId }) {
  useEffect(() => void store.readRooms(), []);
  const { value, error, again } = useRead(() => store.client.messages(roomId, TYPES));
  const names = namesIn(value?.state);
  const parent = { href: link("why"), label: t("why.otherRoom") };
  /** @type {any[]} */
  const events = value?.chunk ?? [];
  return html`<${Title} parent=${parent} lead=${t("why.choose")}>
      <bdi>${store.room(roomId)?.name ?? t("room.title")}</bdi>
    <//>
    <${Problem} error=${error} onRetry=${again} />
    ${!value && !error && html`<${Loading} />`}
    ${value && !events.length && html`<p>${t("why.noMessages")}</p>`}
    <ol class="room-list">
      ${events.map(
        (event) =>
          html`<li key=${event.event_id}>
            <a href=${link("why", roomId, event.event_id)}>
              <${Message} event=${event} names=${names} userId=${store.userId} />
            </a>
          </li>`,
      )}
    </ol>`;
}

/**
 * @param {any[] | undefined} state
 * @returns {Record<string, string>}
 */
const namesIn = (state) =>
  Object.fromEntries(
    (state ?? [])
      .filter((e) => isVisible(e.content?.displayname))
      .map((e) => [e.state_key, e.content.displayname]),
  );

/** @param {{event: any, names: Record<string, string>, userId: string}} props */
function Message({ event, names, userId }) {
  const sender = event.sender === userId ? t("why.you") : names[event.sender] ?? event.sender;
  return html`<span class="room-name">${bodyOf(event)}</span>
    <span class="hint">
      <bdi>${sender}</bdi> · <time datetime=${isoTime(event.origin_server_ts)}
        >${dateTime(event.origin_server_ts)}</time
      >
    </span>`;
}

/** @param {any} event */
function bodyOf(event) {
  const content = event.content ?? {};
  if (event.type === "m.room.encrypted") return t("why.encrypted");
  if (event.type === "m.call.invite") return t("why.call");
  if (typeof content.body !== "string" || !content.body.trim()) return t("why.removed");
  return html`<bdi>${content.body.slice(0, LONGEST)}</bdi>`;
}

/** @param {{store: Store, roomId: string, eventId: string}} props */
function Explained({ store, roomId, eventId }) {
  useEffect(() => void store.readRooms(), []);
  const { value, error, again } = useRead(() => store.client.explain(roomId, eventId));
  const parent = { href: link("why", roomId), label: t("why.otherMessage") };
  return html`<${Title} parent=${parent}>${t("why.title")}<//>
    ${error?.status === 404
      ? html`<p>${t("why.notFound")}</p>`
      : html`<${Problem} error=${error} onRetry=${again} />`}
    ${!value && !error && html`<${Loading} />`}
    ${value && html`<${Explanation} store=${store} roomId=${roomId} answer=${value} />`}`;
}

/** @param {{store: Store, roomId: string, answer: any}} props */
function Explanation({ store, roomId, answer }) {
  const room = store.room(roomId)?.name ?? t("room.title");
  const reasons = (answer.not_recorded ?? []).map((/** @type {string} */ why) => t(`notRecorded.${why}`));
  return html`<p class="lead">${t("why.message", { when: dateTime(answer.received_ts), room })}</p>
    ${!answer.recorded &&
    html`<div class="notice"><p>${reasons.length > 1 ? t("why.oneOf") : t("why.nobody")}</p>
      <ul>${reasons.map((/** @type {string} */ reason) => html`<li key=${reason}>${reason}</li>`)}</ul>
    </div>`}
    ${answer.evaluation_failed && html`<p class="notice warning">${t("why.failed")}</p>`}
    ${answer.recorded &&
    (store.devices ?? []).map((device) => {
      const pushers = answer.pushers.filter((/** @type {any} */ one) => isOf(one, device));
      // Of several, one that rang: then the device did.
      const pusher = STATES.map((state) =>
        pushers.find((/** @type {any} */ one) => one.delivery.state === state),
      ).find(Boolean);
      return html`<${OnDevice}
        key=${device.id}
        store=${store}
        device=${device}
        pusher=${pusher ?? pushers[0]}
        roomId=${roomId}
      />`;
    })}
    <p class="further">
      <a class="button" href=${link("rooms", roomId)}>${t("why.change", { room })}</a>
    </p>`;
}

/**
 * @param {any} pusher
 * @param {Device} device
 */
const isOf = (pusher, device) =>
  pusher.kind !== "email" &&
  device.pushers.some(
    (one) => one["app_id"] === pusher.app_id && one["pushkey"] === pusher.pushkey,
  );

/** @param {{store: Store, device: Device, pusher: any, roomId: string}} props */
function OnDevice({ store, device, pusher, roomId }) {
  const { rang, says, href } = pusher
    ? verdict(pusher, device, store.scope(device.id), roomId)
    : { rang: "self", says: t("why.web"), href: link("rooms", roomId) };
  return html`<section class="card">
    <h2><bdi>${device.name}</bdi></h2>
    <p class=${`verdict ${rang}`}>${t(`why.rang.${rang}`)}</p>
    <p>${says}</p>
    <a class="button" href=${href}>${t("why.setting")}</a>
  </section>`;
}

/**
 * Whether it rang, which setting decided, and where that is changed.
 *
 * @param {any} pusher
 * @param {Device} device
 * @param {RuleSet | undefined} scope  the device's
 * @param {string} roomId
 * @returns {{rang: string, says: string, href: string}}
 */
function verdict(pusher, device, scope, roomId) {
  const { state, reason } = pusher.delivery;
  const rang = { sent: "yes", waiting: "waiting", not_sent: "no" }[/** @type {string} */ (state)] ?? "unknown";
  if (reason && !["silent", "no_match"].includes(reason)) {
    const href = reason === "disabled" ? link("devices") : link("devices", device.id);
    return { rang, says: t(`why.reason.${reason}`), href };
  }
  const waits = state === "waiting" && pusher.failing_since ? `${t("why.failing")} ` : "";
  const { says, href } = decision(pusher, device, scope, roomId);
  return { rang, says: waits + says, href };
}

/**
 * @param {any} pusher
 * @param {Device} device
 * @param {RuleSet | undefined} scope  the device's
 * @param {string} roomId
 */
function decision(pusher, device, scope, roomId) {
  const step = pusher.walk.at(-1);
  const room = link("rooms", roomId);
  const own = link("devices", device.id);
  const suppressed = pusher.walk.some((/** @type {any} */ one) => one.result === "suppressed");
  if (suppressed && pusher.outcome !== "push") return { says: t("why.suppressed"), href: room };
  if (!step || step.result === "no_match") return { says: t("why.noMatch"), href: own };
  if (step.profile_tag === "global") {
    const loud = step.result === "notify";
    return { says: loud ? t("why.globalLoud") : t("why.globalSilent"), href: room };
  }
  if (step.profile_tag !== device.id) {
    return { says: t("why.foreign", { name: step.profile_tag }), href: own };
  }
  if (device.own && step.result === "notify") return { says: t("why.appLoud"), href: room };
  if (device.own) return { says: t("why.appSilent"), href: room };
  const [kind = "", ...rest] = (step.rule ?? "").split("/");
  const rule = scope?.[kind]?.find((one) => one.rule_id === rest.join("/"));
  if (!rule) return { says: t("why.rule.gone"), href: room };
  if (rules.isKeyword(kind, rule)) {
    return { says: t("why.rule.keyword", { word: String(rule.pattern) }), href: own };
  }
  if (rules.isDirect(kind, rule)) return { says: t("why.rule.direct"), href: own };
  const name = rules.roomOf(kind, rule) === roomId ? rules.ourName(kind, rule) : null;
  const known = name?.startsWith("keyword:") ? "roomKeyword" : (name ?? "other");
  return { says: t(`why.rule.${known}`), href: room };
}
