// SPDX-License-Identifier: AGPL-3.0-or-later
/** One device: what it follows, the rooms that it treats otherwise, its keywords. */
import {
  Check,
  Choices,
  ConfirmedButton,
  Problem,
  Switch,
  Title,
  choiceLabel,
  sentenceOnDevice,
  useChange,
  useQuestion,
} from "../components.js";
import { canHaveOwn, canHaveScope } from "../devices.js";
import { html, useId, useRef, useState } from "../html.js";
import { t } from "../i18n.js";
import { link } from "../router.js";
import * as rules from "../rules.js";
import { Meta, Trouble } from "./devices.js";

/** @import {Device, Follow, Rule} from "../types.js" */
/** @import {Store} from "../store.js" */

/** @param {{store: Store, id: string}} props */
export function DeviceScreen({ store, id }) {
  const device = store.device(id);
  const parent = { href: link("devices"), label: t("devices.title") };
  if (!device) {
    return html`<${Title} parent=${parent}>${t("device.unknown")}<//>
      <p>${t("device.gone")}</p>`;
  }
  return html`<${Title} parent=${parent}><bdi>${device.name}</bdi><//>
    <${Meta} device=${device} />
    <section class="card">
      <${Switch}
        label=${t("devices.switch")}
        checked=${device.on}
        onChange=${(/** @type {boolean} */ on) => store.setOn(device, on)}
      />
      <${Trouble} store=${store} device=${device} />
      ${!device.pushers.length && html`<p>${device.own ? t("devices.webOwn") : t("devices.web")}</p>`}
    </section>
    ${(canHaveOwn(device) || (store.canGiveOwn && canHaveScope(device))) &&
    html`<${Follows} store=${store} device=${device} />`}
    ${canHaveOwn(device) &&
    html`<${OwnRooms} store=${store} device=${device} />
      <${Keywords} store=${store} device=${device} />
      <${Foreign} store=${store} device=${device} />
      <section class="card" aria-labelledby="reset">
        <h2 id="reset">${t("device.resetTitle")}</h2>
        <p>${device.own ? t("device.resetHintApp") : t("device.resetHint")}</p>
        <${ConfirmedButton}
          label=${t("device.reset")}
          title=${t("device.resetQuestion")}
          text=${device.own ? t("device.resetHintApp") : t("device.resetHint")}
          onConfirm=${() => store.reset(device)}
        />
      </section>`}`;
}

/** @param {{store: Store, device: Device}} props */
function Follows({ store, device }) {
  const { question, ask } = useQuestion({
    label: t("follow.leave"),
    title: t("follow.leaveQuestion"),
    text: t("follow.leaveHint"),
  });
  const follow = rules.followOf(device, store.scope(device.id));
  if (follow === "custom") return html`<${TagList} store=${store} device=${device} />`;
  const byPush = device.pushers.length > 0;
  /** @type {Follow[]} */
  const values = [
    "everywhere",
    .../** @type {Follow[]} */ (store.canGiveOwn || device.own ? ["app"] : []),
    .../** @type {Follow[]} */ (byPush ? ["own-first", "own-only", "chosen"] : []),
  ];
  const options = values.map((value) => ({
    value,
    label: t(`follow.${value}`),
    hint: t(`follow.${value}.hint`),
    badge: value === "app" && byPush ? t("follow.recommended") : undefined,
  }));
  return html`<section class="card">
    <${Choices}
      legend=${html`<h2>${t("device.follows")}</h2>`}
      name="follow"
      options=${options}
      value=${follow}
      ask=${async () => !device.own || (await ask())}
      onChange=${(/** @type {Follow} */ chosen) => store.setFollow(device, chosen)}
    />
    ${question}
  </section>`;
}

/** @param {{store: Store, device: Device}} props  a list that another app has set: shown, and put in order */
function TagList({ store, device }) {
  const { busy, error, run, retry } = useChange({ each: true });
  const id = useId();
  const items = useRef(/** @type {any} */ (null));
  const move = (/** @type {number} */ from, /** @type {number} */ to) => {
    const [first, second] = /** @type {[string, string]} */ (
      to < from ? [device.tags[from], device.tags[to]] : [device.tags[to], device.tags[from]]
    );
    void run(() => store.putTagBefore(device, first, second)).then(() => {
      const button = items.current?.children[to]?.querySelector("button:not([disabled])");
      button?.focus();
    });
  };
  return html`<section class="card" aria-labelledby=${id}>
    <h2 id=${id}>${t("device.follows")}</h2>
    <p>${t("follow.custom.hint")}</p>
    <ol class="rows" ref=${items} aria-busy=${busy}>
      ${device.tags.map(
        (tag, index) =>
          html`<li key=${tag}>
            <span class="row-name"><bdi>${tagLabel(tag, device)}</bdi></span>
            <span class="row-actions">
              <button
                type="button"
                class="button"
                disabled=${index === 0}
                aria-label=${t("device.up", { name: tagLabel(tag, device) })}
                onClick=${() => move(index, index - 1)}
              >
                ↑
              </button>
              <button
                type="button"
                class="button"
                disabled=${index === device.tags.length - 1}
                aria-label=${t("device.down", { name: tagLabel(tag, device) })}
                onClick=${() => move(index, index + 1)}
              >
                ↓
              </button>
            </span>
          </li>`,
      )}
    </ol>
    <${Problem} error=${error} onRetry=${retry} />
    <${ConfirmedButton}
      label=${t("device.replaceList")}
      title=${t("device.replaceQuestion")}
      text=${t("device.replaceHint")}
      onConfirm=${() => store.setTags(device, [rules.GLOBAL])}
    />
  </section>`;
}

/**
 * @param {string} tag
 * @param {Device} device
 */
function tagLabel(tag, device) {
  if (tag === rules.GLOBAL) return t("tag.everywhere");
  return tag === device.id ? t("tag.own") : t("tag.other", { name: tag });
}

/** @param {{store: Store, device: Device}} props */
function OwnRooms({ store, device }) {
  const id = useId();
  const ids = rules.roomsOn(store.rules, device);
  return html`<section class="card" aria-labelledby=${id}>
    <h2 id=${id}>${device.own ? t("device.appRooms") : t("device.rooms")}</h2>
    ${ids.length === 0 && html`<p>${device.own ? t("device.noAppRooms") : t("device.noRooms")}</p>`}
    <ul class="rows">
      ${ids
        .slice(0, 100)
        .map((roomId) => html`<${OwnRoom} key=${roomId} store=${store} device=${device} id=${roomId} />`)}
    </ul>
    <a class="button" href=${link("rooms")}>${t("device.otherRoom")}</a>
  </section>`;
}

/** @param {{store: Store, device: Device, id: string}} props */
function OwnRoom({ store, device, id }) {
  const { busy, error, run, retry } = useChange();
  const nameId = useId();
  const room = store.room(id) ?? { id, name: id, stamp: 0, members: 0, encrypted: false };
  const choice = rules.choiceOn(store.rules, device, id);
  return html`<li aria-busy=${busy}>
    <span class="row-name">
      <a href=${link("rooms", id)} id=${nameId}><bdi>${room.name}</bdi></a>
      ${choice !== "everywhere" && html`<span class="hint">${choiceLabel(choice)}</span>`}
      <span class="hint">${sentenceOnDevice(store, room, device)}</span>
    </span>
    ${choice !== "everywhere" &&
    html`<span class="row-actions">
      <button
        type="button"
        class="button-quiet"
        aria-describedby=${nameId}
        onClick=${() => run(() => store.setRoom(device, id, "everywhere"))}
      >
        ${t("device.resetRoom")}
      </button>
    </span>`}
    <${Problem} error=${error} onRetry=${retry} />
  </li>`;
}

/** @param {{store: Store, device: Device}} props */
function Keywords({ store, device }) {
  const id = useId();
  const hintId = useId();
  const errorId = useId();
  const { busy, error, run, retry } = useChange({ each: true });
  const [word, setWord] = useState("");
  const [sound, setSound] = useState(true);
  const [missing, setMissing] = useState(false);
  const input = useRef(/** @type {any} */ (null));
  const keywords = rules.keywordsOf(store.scope(device.id));
  const add = (/** @type {any} */ event) => {
    event.preventDefault();
    const added = word.trim();
    setMissing(!added);
    input.current.focus();
    if (!added) return;
    void run(async () => {
      await store.setKeyword(device, added, sound);
      // The next may have been written meanwhile.
      setWord((/** @type {string} */ now) => (now.trim() === added ? "" : now));
    });
  };
  return html`<section class="card" aria-labelledby=${id}>
    <h2 id=${id}>${t("device.keywords")}</h2>
    <p id=${hintId}>${t("device.keywordsHint")}</p>
    ${keywords.length > 0 &&
    !device.own &&
    !device.tags.includes(device.id) &&
    html`<p class="note">${t("sentence.notInUse")}</p>`}
    <ul class="rows">
      ${keywords.map(
        (rule) => html`<${Keyword} key=${rule.rule_id} store=${store} device=${device} rule=${rule} />`,
      )}
    </ul>
    <form class="inline-form" onSubmit=${add} noValidate aria-busy=${busy}>
      <label class="field">
        <span>${t("device.word")}</span>
        <input
          ref=${input}
          type="text"
          maxlength="60"
          autocomplete="off"
          autocapitalize="none"
          value=${word}
          aria-describedby=${missing ? errorId : hintId}
          aria-invalid=${missing}
          onInput=${(/** @type {any} */ event) => setWord(event.currentTarget.value)}
        />
      </label>
      ${missing && html`<p class="field-error" id=${errorId}>${t("device.wordMissing")}</p>`}
      <label class="check">
        <input
          type="checkbox"
          checked=${sound}
          onChange=${(/** @type {any} */ event) => setSound(event.currentTarget.checked)}
        />
        <span>${t("device.sound")}</span>
      </label>
      <button class="button">${t("device.addWord")}</button>
    </form>
    <${Problem} error=${error} onRetry=${retry} />
  </section>`;
}

/** @param {{store: Store, device: Device, rule: Rule}} props */
function Keyword({ store, device, rule }) {
  const { busy, error, run, retry } = useChange();
  const id = useId();
  const word = String(rule.pattern);
  return html`<li aria-busy=${busy}>
    <span class="row-name" id=${id}><bdi>${word}</bdi></span>
    <span class="row-actions">
      <${Check}
        label=${t("device.sound")}
        checked=${rules.hasSound(rule)}
        describedBy=${id}
        onChange=${(/** @type {boolean} */ on) => store.setKeyword(device, word, on)}
      />
      <button
        type="button"
        class="button-quiet"
        aria-describedby=${id}
        onClick=${() => run(() => store.removeKeyword(device, word))}
      >
        ${t("device.removeWord")}
      </button>
    </span>
    <${Problem} error=${error} onRetry=${retry} />
  </li>`;
}

/** @param {{store: Store, device: Device}} props  rules that the page does not understand */
function Foreign({ store, device }) {
  const id = useId();
  const tags = new Set([device.id, ...device.tags.filter((tag) => tag !== rules.GLOBAL)]);
  const found = [...tags].flatMap((tag) => rules.foreignRules(store.scope(tag)));
  if (!found.length) return null;
  return html`<section class="card" aria-labelledby=${id}>
    <h2 id=${id}>${t("foreign.title")}</h2>
    <p>${t("foreign.hint")}</p>
    <ul class="rows">
      ${found
        .slice(0, 50)
        .map(
          ({ kind, rule }) =>
            html`<li key=${`${kind}/${rule.rule_id}`}>
              <span class="row-name"><bdi>${rule.rule_id}</bdi></span>
            </li>`,
        )}
    </ul>
  </section>`;
}
