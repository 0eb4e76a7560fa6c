// SPDX-License-Identifier: AGPL-3.0-or-later
/** One request, and what becomes of it: JSON, or a MatrixError. */

const TIMEOUT_MS = 30_000;
/** How long to wait after a 429 that does not say. */
const UNTOLD_WAIT_MS = 5_000;

/** A request that did not succeed. */
export class MatrixError extends Error {
  /**
   * @param {number} status - of HTTP; 0 where no answer came
   * @param {string} errcode - such as "M_FORBIDDEN", or OAuth's "invalid_grant"; "" for none
   * @param {string} message - the server's own words, for a log; never markup
   * @param {number} [retryAfterMs] - when the server may be asked again
   * @param {boolean} [softLogout] - whether the session is still there, without a token
   */
  constructor(status, errcode, message, retryAfterMs = 0, softLogout = false) {
    super(message);
    this.name = "MatrixError";
    this.status = status;
    this.errcode = errcode;
    this.retryAfterMs = retryAfterMs;
    this.softLogout = softLogout;
  }
}

/**
 * Sends a request and returns what the server answered.
 *
 * @param {string} method
 * @param {string | URL} url
 * @param {object} [options]
 * @param {string} [options.token] - sent in a header, so that no log has it
 * @param {unknown} [options.json] - the body
 * @param {Record<string, string>} [options.form] - the body, for OAuth
 * @param {AbortSignal} [options.signal]
 * @param {number} [options.timeoutMs]
 * @param {boolean} [options.blob] - whether the answer is no JSON
 * @returns {Promise<any>}
 * @throws {MatrixError} no network, or an answer that is no success
 */
export async function ask(method, url, options = {}) {
  const { token, json, form, signal, timeoutMs = TIMEOUT_MS, blob = false } = options;
  /** @type {Record<string, string>} */
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  const aborter = new AbortController();
  const abort = () => aborter.abort();
  const timer = setTimeout(abort, timeoutMs);
  signal?.addEventListener("abort", abort);
  if (signal?.aborted) abort();
  /** @type {Response} */
  let response;
  let body;
  try {
    response = await fetch(url, {
      method,
      headers,
      body: form ? new URLSearchParams(form) : json === undefined ? undefined : JSON.stringify(json),
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      referrerPolicy: "no-referrer",
      signal: aborter.signal,
    });
    body = blob && response.ok ? await response.blob() : await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new MatrixError(0, "", String(error));
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
  if (response.ok && blob) return body;
  const parsed = parse(String(body));
  if (response.ok && parsed !== undefined) return parsed;
  throw failure(response, parsed);
}

/**
 * @param {string} text
 * @returns {any} undefined for what is no JSON
 */
function parse(text) {
  try {
    return text === "" ? {} : JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * @param {Response} response
 * @param {any} body
 */
function failure(response, body) {
  const fields = body !== null && typeof body === "object" ? body : {};
  // OAuth has the code where Matrix has the sentence.
  const code = fields.errcode ?? (fields.error_description ? fields.error : undefined);
  const errcode = typeof code === "string" ? code : oauthCode(fields.error);
  const message = String(fields.error_description ?? fields.error ?? response.statusText);
  const wait = response.status === 429 ? waitOf(response, fields) : 0;
  return new MatrixError(response.status, errcode, message, wait, fields.soft_logout === true);
}

/** @param {unknown} error */
function oauthCode(error) {
  return typeof error === "string" && /^[a-z_]+$/.test(error) ? error : "";
}

/**
 * @param {Response} response
 * @param {any} fields
 */
function waitOf(response, fields) {
  const header = response.headers.get("Retry-After") ?? "";
  if (/^\d+$/.test(header)) return Number(header) * 1000;
  const date = Date.parse(header);
  if (!Number.isNaN(date)) return Math.max(0, date - Date.now());
  const told = fields.retry_after_ms;
  return typeof told === "number" && told >= 0 ? told : UNTOLD_WAIT_MS;
}
