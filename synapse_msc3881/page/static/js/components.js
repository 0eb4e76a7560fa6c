// SPDX-License-Identifier: AGPL-3.0-or-later
/** What several screens are made of. */
import { html, useEffect, useId, useRef, useState } from "./html.js";
import { list, t } from "./i18n.js";
import * as rules from "./rules.js";

/** @import {Choice, Device, Room} from "./types.js" */
/** @import {Store} from "./store.js" */

// ---- What is going on ----

/** @type {{listener: (text: string) => void}} */
const announcer = { listener: () => undefined };

/** @param {string} text  that a screen reader is to say */
export const announce = (text) => announcer.listener(text);

/** How many changes are under way. */
let saving = 0;

/** @param {number} ms  that the server asks to wait; 0 when that is over */
export function announceWait(ms) {
  if (ms) announce(t("status.waiting", { count: Math.ceil(ms / 1000) }));
  else announce(saving ? t("status.saving") : "");
}

/** Says what changed: seen for a moment at the edge of the screen, and read out. */
export function Announcer() {
  const [text, setText] = useState("");
  useEffect(() => {
    announcer.listener = setText;
  }, []);
  useEffect(() => {
    if (!text) return undefined;
    const timer = setTimeout(() => setText(""), 6000);
    return () => clearTimeout(timer);
  }, [text]);
  return html`<div role="status" class=${text ? "announcer" : "announcer empty"}>${text}</div>`;
}

/**
 * What failed, in a sentence.
 *
 * @param {any} error
 */
export function sentenceOf(error) {
  if (error instanceof rules.TakenError) return t("problem.taken");
  if (error instanceof rules.GoesByAppError) return t("problem.goesByApp");
  switch (error.status) {
    case 0:
      return t("problem.offline");
    case 401:
      return t("problem.signedOut");
    case 403:
      return t("problem.forbidden");
    case 429:
      return t("problem.tooMany");
    default:
      if (error.status >= 500) return t("problem.server");
      return error.status
        ? t("problem.refused", { message: String(error.message) })
        : t("problem.page", { message: String(error.message ?? error) });
  }
}

/** @param {{error: any, onRetry?: () => void}} props */
export function Problem({ error, onRetry }) {
  if (!error) return null;
  const isFinal =
    [401, 403].includes(error.status) ||
    error instanceof rules.TakenError ||
    error instanceof rules.GoesByAppError;
  const retry = onRetry && !isFinal;
  return html`<div class="problem" role="alert">
    <p>${sentenceOf(error)}</p>
    ${retry &&
    html`<button type="button" class="button" onClick=${onRetry}>${t("problem.retry")}</button>`}
  </div>`;
}

/**
 * Changes one after another: the last that was asked for while one was under way is done after it.
 *
 * @param {{each?: boolean}} [options]  `each`: all that were asked for are, as none replaces another
 * @returns {{busy: boolean, error: any, run: (change: () => Promise<any>) => Promise<any>, retry: () => void}}
 */
export function useChange({ each = false } = {}) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  /** @type {{current: {running: boolean, next: (() => Promise<any>)[], last: () => Promise<any>}}} */
  const state = useRef({ running: false, next: [], last: async () => undefined });

  const isShown = useRef(true);
  useEffect(
    () => () => {
      isShown.current = false;
    },
    [],
  );

  /** @param {() => Promise<any>} change */
  async function run(change) {
    const { current } = state;
    current.next = each ? [...current.next, change] : [change];
    if (current.running) return;
    current.running = true;
    setBusy(true);
    saving++;
    announce(t("status.saving"));
    try {
      for (let next = current.next.shift(); next; next = current.next.shift()) {
        current.last = next;
        await next();
      }
      setError(null);
      saving--;
      announce(saving ? t("status.saving") : t("status.saved"));
    } catch (/** @type {any} */ caught) {
      current.next = [];
      setError(caught);
      saving--;
      // Who has gone to another screen does not see it there. That a session is over shows by itself.
      if (!isShown.current && caught.status !== 401) announce(sentenceOf(caught));
      else announce(saving ? t("status.saving") : "");
    } finally {
      current.running = false;
      setBusy(false);
    }
  }
  return { busy, error, run, retry: () => void run(state.current.last) };
}

/**
 * A value that is changed: what was chosen is shown while it is saved, and then what the server holds.
 *
 * @template T
 * @param {T} value  what the server holds
 * @param {(wanted: T) => Promise<any>} onChange
 */
function useWanted(value, onChange) {
  const { busy, error, run, retry } = useChange();
  const [wanted, setWanted] = useState(value);
  const change = (/** @type {T} */ chosen) => {
    setWanted(chosen);
    void run(() => onChange(chosen));
  };
  return { shown: busy ? wanted : value, change, busy, error, retry };
}

// ---- Controls ----

/**
 * @param {{label: string, checked: boolean, describedBy?: string, onChange: (on: boolean) => Promise<any>}} props
 */
export function Check({ label, checked, describedBy, onChange }) {
  const { shown, change, busy, error, retry } = useWanted(checked, onChange);
  return html`<label class="check">
      <input
        type="checkbox"
        checked=${shown}
        aria-describedby=${describedBy}
        aria-busy=${busy}
        onChange=${(/** @type {any} */ event) => change(event.currentTarget.checked)}
      />
      <span>${label}</span>
    </label>
    <${Problem} error=${error} onRetry=${retry} />`;
}

/**
 * @param {{label: any, checked: boolean, describedBy?: string, onChange: (on: boolean) => Promise<any>}} props
 */
export function Switch({ label, checked, describedBy, onChange }) {
  const { shown, change, busy, error, retry } = useWanted(checked, onChange);
  return html`<label class="switch">
      <span>${label}</span>
      <span class="switch-state" aria-hidden="true">${shown ? t("switch.on") : t("switch.off")}</span>
      <input
        type="checkbox"
        role="switch"
        checked=${shown}
        aria-describedby=${describedBy}
        aria-busy=${busy}
        onChange=${(/** @type {any} */ event) => change(event.currentTarget.checked)}
      />
    </label>
    <${Problem} error=${error} onRetry=${retry} />`;
}

/**
 * A row of choices, of which one is taken. `ask` may ask a person before another is.
 *
 * @param {{legend: any, name: string, options: {value: string, label: string, hint?: string, badge?: string}[], value: string, note?: any, compact?: boolean, ask?: (value: any) => Promise<boolean>, onChange: (value: any) => Promise<any>}} props
 */
export function Choices({ legend, name, options, value, note, compact, ask, onChange }) {
  const { shown, change, busy, error, retry } = useWanted(value, onChange);
  const [asked, setAsked] = useState(/** @type {string | null} */ (null));
  const choose = async (/** @type {string} */ chosen) => {
    setAsked(chosen);
    const isMeant = !ask || (await ask(chosen));
    setAsked(null);
    if (isMeant) change(chosen);
  };
  const noteId = useId();
  return html`<fieldset
    class=${compact ? "choices compact" : "choices"}
    aria-busy=${busy}
    aria-describedby=${note ? noteId : undefined}
  >
    <legend>${legend}</legend>
    <div class="options">
      ${options.map(
        (option) =>
          html`<label key=${option.value} class="option">
            <input
              type="radio"
              name=${name}
              value=${option.value}
              checked=${(asked ?? shown) === option.value}
              onChange=${() => choose(option.value)}
            />
            <span>
              <span class="option-label">${option.label}</span>
              ${option.badge && html` <span class="badge">${option.badge}</span>`}
              ${option.hint && html`<span class="hint">${option.hint}</span>`}
            </span>
          </label>`,
      )}
    </div>
    ${note && html`<p id=${noteId} class="note" aria-live="polite">${note}</p>`}
    <${Problem} error=${error} onRetry=${retry} />
  </fieldset>`;
}

/**
 * A button that asks before it does something.
 *
 * @param {{label: string, title: string, text: string, onConfirm: () => Promise<any>}} props
 */
export function ConfirmedButton({ label, title, text, onConfirm }) {
  const { busy, error, run, retry } = useChange();
  const { question, ask } = useQuestion({ label, title, text });
  const press = async () => {
    if (await ask()) void run(onConfirm);
  };
  return html`<button type="button" class="button danger" aria-busy=${busy} onClick=${press}>
      ${label}
    </button>
    ${question}
    <${Problem} error=${error} onRetry=${retry} />`;
}

/**
 * A question that has to be answered before anything else.
 *
 * @param {{label: string, title: string, text: string}} texts  `label` is what is said to go on
 * @returns {{question: any, ask: () => Promise<boolean>}}  what is to be in the document, and how to ask
 */
export function useQuestion({ label, title, text }) {
  const dialog = useRef(/** @type {any} */ (null));
  const answer = useRef(/** @type {(isMeant: boolean) => void} */ (() => undefined));
  const titleId = useId();
  const ask = () => {
    dialog.current.returnValue = "";
    dialog.current.showModal();
    return new Promise((/** @type {(isMeant: boolean) => void} */ resolve) => {
      answer.current = resolve;
    });
  };
  const question = html`<dialog
    ref=${dialog}
    aria-labelledby=${titleId}
    onClose=${() => answer.current(dialog.current.returnValue === "yes")}
  >
    <h2 id=${titleId}>${title}</h2>
    <p>${text}</p>
    <div class="actions">
      <button type="button" class="button danger" onClick=${() => dialog.current.close("yes")}>
        ${label}
      </button>
      <button type="button" class="button-quiet" onClick=${() => dialog.current.close()}>
        ${t("dialog.cancel")}
      </button>
    </div>
  </dialog>`;
  return { question, ask };
}

/** @param {{children: any, lead?: string, parent?: {href: string, label: string}}} props  a screen's heading */
export function Title({ children, lead, parent }) {
  return html`${parent &&
    html`<a class="back" href=${parent.href}><span aria-hidden="true">‹</span> ${parent.label}</a>`}
    <h1 tabindex="-1">${children}</h1>
    ${lead && html`<p class="lead">${lead}</p>`}`;
}

export function Loading() {
  return html`<p class="loading" role="status">${t("status.loading")}</p>`;
}

// ---- Words for what is set ----

/** @param {Choice | "unfinished"} choice */
export const choiceLabel = (choice) => t(`choice.${choice}`);

/** @returns {{value: Choice, label: string}[]} */
export const choiceOptions = () =>
  /** @type {Choice[]} */ (["everywhere", "all", "mentions", "muted"]).map((value) => ({
    value,
    label: choiceLabel(value),
  }));

/**
 * What will happen in a room on a device.
 *
 * @param {Store} store
 * @param {Room} room
 * @param {Device} device
 */
export function sentenceOnDevice(store, room, device) {
  const { key, words } = rules.deviceSentence(store.rules, room, device);
  return t(`sentence.${key}`, { words: list(words) });
}

/**
 * What will happen in a room where nothing else is set.
 *
 * @param {Store} store
 * @param {Room} room
 */
export function sentenceEverywhere(store, room) {
  const key = rules.everywhereSentence(store.rules, room);
  const words = rules.wordsOf(store.rules.global);
  if (key === "mentions" && words.length) return t("sentence.mentionsWords", { words: list(words) });
  return t(`sentence.${key}`);
}
