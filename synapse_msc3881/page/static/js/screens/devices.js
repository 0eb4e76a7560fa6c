// SPDX-License-Identifier: AGPL-3.0-or-later
/** "Devices": every device, its switch, what it follows, and what is wrong with it. */
import { Problem, Switch, Title, announce, useChange } from "../components.js";
import { canHaveOwn, canHaveScope } from "../devices.js";
import { html, useEffect, useId, useRef, useState } from "../html.js";
import { ago, dateTime, isoTime, t } from "../i18n.js";
import { link } from "../router.js";
import * as rules from "../rules.js";

/** @import {Device, Pusher} from "../types.js" */
/** @import {Store} from "../store.js" */

/** @param {{store: Store}} props */
export function Devices({ store }) {
  useEffect(() => void store.readIfOld().catch(() => null), []);
  const devices = store.devices ?? [];
  return html`<${Title} lead=${t("devices.lead")}>${t("devices.title")}<//>
    ${rules.isAccountOff(store.rules) &&
    html`<p class="notice warning">
      ${t("devices.accountOff")} ${devices.some(({ own }) => own) && t("devices.accountOffOwn")}
    </p>`}
    ${store.undo && html`<${Undo} key=${store.undo} store=${store} />`}
    ${!devices.length && html`<p class="card">${t("devices.none")}</p>`}
    <div class="cards">
      ${devices.map(
        (device) =>
          html`<${DeviceCard}
            key=${device.id}
            store=${store}
            device=${device}
            many=${devices.length > 1}
          />`,
      )}
    </div>
    <${Refresh} store=${store} />
    ${store.emails.length > 0 && html`<${Emails} store=${store} />`}`;
}

/** @param {{store: Store}} props */
function Undo({ store }) {
  const { busy, error, run, retry } = useChange();
  const self = useRef(/** @type {any} */ (null));
  const undo = /** @type {NonNullable<Store["undo"]>} */ (store.undo);
  useEffect(() => {
    // Once: who comes back to it looks for something else.
    if (!undo.isTold) self.current.focus();
    undo.isTold = true;
  }, []);
  return html`<div class="notice" role="group" tabindex="-1" ref=${self} aria-busy=${busy}>
    <p>${silencedSentence(store, undo)}</p>
    <button type="button" class="button" onClick=${() => run(() => store.undoSilence())}>${t("devices.undo")}</button>
    <button type="button" class="button-quiet" onClick=${() => store.forgetUndo()}>
      ${t("devices.keep")}
    </button>
    <${Problem} error=${error} onRetry=${retry} />
  </div>`;
}

/**
 * @param {Store} store
 * @param {{id: string, name: string}} kept
 */
function silencedSentence(store, { id, name }) {
  /** @type {Device[]} */
  const devices = store.devices ?? [];
  // Somebody may have switched one on since, or signed one in.
  if (devices.some((device) => device.on !== (device.id === id))) {
    return t("devices.silencedBefore", { device: name });
  }
  const byMail = store.emails.some((email) => email["enabled"] !== false);
  return byMail ? t("devices.silencedButMail", { device: name }) : t("devices.silenced", { device: name });
}

/** @param {{store: Store}} props  for a device that has just been signed in */
function Refresh({ store }) {
  const [error, setError] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  const read = () => {
    setBusy(true);
    setError(null);
    announce(t("status.loading"));
    store
      .readAgain()
      .then(() => announce(t("devices.refreshed")), (/** @type {any} */ failed) => {
        announce("");
        setError(failed);
      })
      .finally(() => setBusy(false));
  };
  return html`<p class="further">
      <button type="button" class="button-quiet" aria-busy=${busy} onClick=${read}>
        ${t("devices.refresh")}
      </button>
    </p>
    <${Problem} error=${error} onRetry=${read} />`;
}

/** @param {{store: Store, device: Device, many: boolean}} props */
function DeviceCard({ store, device, many }) {
  const id = useId();
  const { busy, error, run, retry } = useChange();
  const own = canHaveOwn(device) || (store.canGiveOwn && canHaveScope(device));
  const href = link("devices", device.id);
  const silenceOthers = () => run(() => store.silenceAllBut(device));
  return html`<section class="card" aria-labelledby=${id}>
    <h2 id=${id}>
      ${own ? html`<a href=${href}><bdi>${device.name}</bdi></a>` : html`<bdi>${device.name}</bdi>`}
    </h2>
    <${Meta} device=${device} />
    <${Switch}
      label=${t("devices.switch")}
      checked=${device.on}
      describedBy=${id}
      onChange=${(/** @type {boolean} */ on) => store.setOn(device, on)}
    />
    <${Trouble} store=${store} device=${device} />
    <p>${followSentence(store, device)}</p>
    <div class="actions">
      ${own && html`<a class="button" href=${href} aria-describedby=${id}>${t("devices.open")}</a>`}
      ${many &&
      html`<button
        type="button"
        class="button-quiet"
        aria-describedby=${id}
        aria-busy=${busy}
        onClick=${silenceOthers}
      >
        ${t("devices.silenceOthers")}
      </button>`}
    </div>
    <${Problem} error=${error} onRetry=${retry} />
  </section>`;
}

/** @param {{device: Device}} props */
export function Meta({ device }) {
  const parts = [];
  if (device.app) parts.push(html`<bdi>${device.app}</bdi>`);
  if (device.lastSeen) {
    parts.push(
      html`<time datetime=${isoTime(device.lastSeen)} title=${dateTime(device.lastSeen)}
        >${t("devices.lastSeen", { when: ago(device.lastSeen) })}</time
      >`,
    );
  }
  return parts.length ? html`<p class="meta">${parts}</p>` : null;
}

/** @param {{store: Store, device: Device}} props  what is wrong, and what to do */
export function Trouble({ store, device }) {
  const { busy, error, run, retry } = useChange();
  const since = store.failing[device.id];
  const setAgain = () => run(() => store.change(() => store.attachOwn(device)));
  return html`${since &&
    html`<p class="notice warning">${t("devices.failing", { when: dateTime(since) })}</p>`}
    ${device.reset &&
    html`<div class="notice warning">
      <p>${t("devices.reset")}</p>
      <button type="button" class="button" aria-busy=${busy} onClick=${setAgain}>
        ${t("devices.setAgain")}
      </button>
      <${Problem} error=${error} onRetry=${retry} />
    </div>`}`;
}

/**
 * @param {Store} store
 * @param {Device} device
 */
function followSentence(store, device) {
  if (!device.pushers.length) return device.own ? t("devices.webOwn") : t("devices.web");
  if (!canHaveOwn(device)) return t("devices.stray");
  const scope = store.scope(device.id);
  const follow = rules.followOf(device, scope);
  const says = t("devices.follows", { what: t(`follow.${follow}`) });
  const count = device.own ? 0 : rules.roomsOn(store.rules, device).length;
  return count ? `${says} ${t("devices.rooms", { count })}` : says;
}

/** @param {{store: Store}} props */
function Emails({ store }) {
  const id = useId();
  return html`<section class="card" aria-labelledby=${id}>
    <h2 id=${id}>${t("devices.email")}</h2>
    ${store.emails.map(
      (/** @type {Pusher} */ email) =>
        html`<${Switch}
          key=${email["pushkey"]}
          label=${html`<bdi>${email["pushkey"]}</bdi>`}
          checked=${email["enabled"] !== false}
          onChange=${(/** @type {boolean} */ on) => store.setEmailOn(email, on)}
        />`,
    )}
  </section>`;
}
