// SPDX-License-Identifier: AGPL-3.0-or-later
/** The texts, all of which stand in the catalogues `i18n/*.json`. */

export const LANGUAGES = ["en", "de", "fr"];

const STORED = "synapse_msc3881.language";
const LONGEST = 120;
// Scripts from right to left, and the marks that change the direction of what follows.
const TURNS = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u200e\u200f\u202a-\u202e\u2066-\u2069]/;

const state = {
  /** How often a catalogue was asked for. */
  asked: 0,
  language: "en",
  /** @type {Record<string, string>} */
  texts: {},
};

/** The browser's own way to write dates in that language, such as that of en-GB. */
const locale = () =>
  navigator.languages.find((tag) => tag.split("-")[0] === state.language) ?? state.language;

/** The language that is shown. */
export const language = () => state.language;

/** The one chosen by hand, else the first of the browser's that there is. */
function wanted() {
  const stored = kept();
  const preferred = [stored ?? "", ...navigator.languages].map((tag) => tag.split("-")[0]);
  return preferred.find((tag) => tag && LANGUAGES.includes(tag)) ?? "en";
}

/** The one chosen by hand before; null too where the browser keeps nothing. */
function kept() {
  try {
    return localStorage.getItem(STORED);
  } catch {
    return null;
  }
}

/**
 * Read the catalogue.
 *
 * @param {string} [chosen]  by hand; without, see `wanted`
 */
export async function loadTexts(chosen) {
  try {
    if (chosen) localStorage.setItem(STORED, chosen);
  } catch {
    // It holds until the page is closed.
  }
  const next = chosen ?? wanted();
  const turn = ++state.asked;
  const answer = await fetch(new URL(`../i18n/${next}.json`, import.meta.url));
  const texts = await answer.json();
  if (turn !== state.asked) return; // Another was chosen meanwhile.
  state.texts = texts;
  state.language = next;
  document.documentElement.lang = next;
}

/**
 * A text.
 *
 * @param {string} key
 * @param {Record<string, string | number>} [values]  for what stands in braces; `count` chooses among
 *   the plural forms `key.one`, `key.other`, …
 */
export function t(key, values = {}) {
  const { texts } = state;
  let text = texts[key];
  if (text === undefined && typeof values["count"] === "number") {
    const form = new Intl.PluralRules(state.language).select(values["count"]);
    text = texts[`${key}.${form}`] ?? texts[`${key}.other`];
  }
  if (text === undefined) return key;
  return text.replace(/\{(\w+)\}/g, (braces, name) => {
    const value = values[name];
    if (value === undefined) return braces;
    return typeof value === "number" ? number(value) : inSentence(value);
  });
}

/**
 * A name that somebody chose, as part of a sentence: not too long, and turning nothing around it.
 *
 * @param {string} name
 */
function inSentence(name) {
  const short = name.length > LONGEST ? `${[...name].slice(0, LONGEST).join("")}…` : name;
  return TURNS.test(short) ? `\u2068${short}\u2069` : short;
}

/**
 * Whether it is a text in which there is something to see.
 *
 * @param {unknown} text
 * @returns {text is string}
 */
export const isVisible = (text) => typeof text === "string" && /[\p{L}\p{N}\p{P}\p{S}]/u.test(text);

/** @param {number} value */
export const number = (value) => new Intl.NumberFormat(locale()).format(value);

/** @param {string[]} items */
export const list = (items) =>
  new Intl.ListFormat(locale(), { type: "disjunction" }).format(items);

/**
 * When something was, in words; "" for a number that is no time, which other servers may send.
 *
 * @param {number} ms
 */
export const dateTime = (ms) =>
  isTime(ms)
    ? new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "short" }).format(ms)
    : "";

/**
 * The same for a machine.
 *
 * @param {number} ms
 */
export const isoTime = (ms) => (isTime(ms) ? new Date(ms).toISOString() : undefined);

/** @param {number} ms */
const isTime = (ms) => !Number.isNaN(new Date(ms).getTime());

/** @type {[Intl.RelativeTimeFormatUnit, number][]} */
const UNITS = [
  ["day", 86_400_000],
  ["hour", 3_600_000],
  ["minute", 60_000],
];

/**
 * How long ago, in words; further back than a month the day.
 *
 * @param {number} ms
 */
export function ago(ms) {
  const passed = Date.now() - ms;
  if (passed > 30 * 86_400_000) {
    return new Intl.DateTimeFormat(locale(), { dateStyle: "long" }).format(ms);
  }
  const [unit, length] = UNITS.find(([, size]) => passed >= size) ?? ["minute", 60_000];
  const format = new Intl.RelativeTimeFormat(locale(), { numeric: "auto" });
  return format.format(-Math.floor(Math.max(passed, 0) / length), unit);
}
