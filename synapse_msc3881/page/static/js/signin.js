// SPDX-License-Identifier: AGPL-3.0-or-later
/** The screen to sign in: what the server offers, and nothing else. */
import { expectAnswer } from "./answers.js";
import { Title } from "./components.js";
import { html, useEffect, useRef, useState } from "./html.js";
import { t } from "./i18n.js";
import { MatrixError, ask } from "./net.js";
import { findServer, goToServer } from "./oauth.js";
import { homeserverUrl, lastEnd, logIn, oauthState, ownDeviceId } from "./session.js";

/** Up to this, the page waits by itself when the server wants a rest. */
const SHORT_WAIT_MS = 15_000;
/** When to look again whether the OAuth server is there. */
const RELOAD_MS = 2_000;

/**
 * @typedef {object} Offer
 * @property {import("./oauth.js").OAuthServer | null} oauth
 * @property {boolean} password
 * @property {{id: string, name: string}[]} providers - of single sign-on; an id may be ""
 */

/**
 * What the homeserver offers.
 *
 * @param {string} homeserver
 * @returns {Promise<Offer>}
 * @throws {MatrixError}
 */
async function findOffer(homeserver) {
  // Where there is an OAuth server, what else is offered is for clients that do not know it.
  const oauth = oauthState() !== "no" ? await findServer(homeserver) : null;
  if (oauth !== null) return { oauth, password: false, providers: [] };
  const flows = await findFlows(homeserver);
  const types = flows.map((flow) => flow?.type);
  const sso = flows.find((flow) => flow?.type === "m.login.sso");
  // Without this one, what single sign-on answers with is of no use.
  const usable = sso !== undefined && types.includes("m.login.token");
  return {
    oauth: null,
    password: types.includes("m.login.password"),
    providers: usable ? providersOf(sso) : [],
  };
}

/**
 * @param {string} homeserver
 * @returns {Promise<any[]>}
 */
async function findFlows(homeserver) {
  try {
    const { flows } = await ask("GET", `${homeserver}_matrix/client/v3/login`);
    return Array.isArray(flows) ? flows : [];
  } catch (error) {
    // Where an OAuth server does it, the homeserver does not know the path.
    if (error instanceof MatrixError && [403, 404].includes(error.status)) return [];
    throw error;
  }
}

/** @param {any} flow */
function providersOf(flow) {
  const listed = flow.identity_providers ?? flow["org.matrix.msc2858.identity_providers"];
  if (!Array.isArray(listed) || listed.length === 0) return [{ id: "", name: "" }];
  return listed.map((/** @type {any} */ { id, name }) => ({ id: String(id), name: String(name) }));
}

/**
 * @param {string} homeserver
 * @param {string} provider
 */
function goToProvider(homeserver, provider) {
  const back = new URL(location.origin + location.pathname);
  back.searchParams.set("state", expectAnswer("sso", homeserver));
  const where = provider ? `redirect/${encodeURIComponent(provider)}` : "redirect";
  const url = new URL(`${homeserver}_matrix/client/v3/login/sso/${where}`);
  url.searchParams.set("redirectUrl", back.href);
  location.assign(url);
}

/**
 * Who signs in: a user id, a name, or an address that the account has.
 *
 * @param {string} name
 */
function identifierOf(name) {
  if (/^[^@\s]+@[^@\s]+$/.test(name)) {
    return { type: "m.id.thirdparty", medium: "email", address: name };
  }
  return { type: "m.id.user", user: name };
}

/** @param {number} milliseconds */
function inWords(milliseconds) {
  const seconds = Math.ceil(milliseconds / 1000);
  const [count, unit] = seconds < 90 ? [seconds, "second"] : [Math.ceil(seconds / 60), "minute"];
  const options = { style: "unit", unit, unitDisplay: "long" };
  const format = new Intl.NumberFormat(
    document.documentElement.lang || undefined,
    /** @type {Intl.NumberFormatOptions} */ (options),
  );
  return format.format(count);
}

/** @param {MatrixError} error */
function sentenceFor(error) {
  switch (error.errcode) {
    case "M_FORBIDDEN":
      return t("signin.wrong");
    case "M_USER_DEACTIVATED":
      return t("signin.deactivated");
    case "M_USER_LOCKED":
      return t("signin.locked");
    case "M_LIMIT_EXCEEDED":
      return t("signin.wait", { time: inWords(error.retryAfterMs) });
    case "access_denied":
      return t("signin.denied");
    case "INSECURE":
      return t("signin.insecure");
    case "UNUSABLE":
      return t("signin.unusable");
  }
  if (error.status === 429) return t("signin.wait", { time: inWords(error.retryAfterMs) });
  if (error.status === 0 && error.errcode === "") return t("signin.offline");
  if (error.status >= 500) return t("signin.server", { status: error.status });
  return t("signin.failed");
}

/** Why nobody is signed in, in a sentence; "" on a first visit. */
function noticeOfEnd() {
  const end = lastEnd();
  switch (end?.reason) {
    case "signed-out":
      return t("signin.signedOut");
    case "signed-out-here":
      return t("signin.signedOutHere");
    case "idle":
      return t("signin.idle");
    case "expired":
      return t("signin.expired");
    case "elsewhere":
      return t("signin.elsewhere");
    case "refused":
      return t("signin.refused");
    case "failed":
      // A token that came back is no name and no password.
      return end?.error?.errcode === "M_FORBIDDEN"
        ? t("signin.failed")
        : sentenceFor(/** @type {MatrixError} */ (end?.error));
    default:
      return "";
  }
}

/** Why nobody can sign in where the page is; "" where one can. */
function hindranceInWords() {
  switch (lastEnd()?.reason) {
    case "framed":
      return t("signin.framed");
    case "blocked":
      return t("signin.blocked");
    default:
      return "";
  }
}

/** @param {number} milliseconds */
function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/**
 * @param {{onSignedIn: (session: import("./session.js").Session) => void}} props
 */
export function SignIn({ onSignedIn }) {
  const homeserver = homeserverUrl();
  const [offer, setOffer] = useState(/** @type {Offer | null} */ (null));
  const [notice, setNotice] = useState(noticeOfEnd);
  const [problem, setProblem] = useState("");
  const [asking, setAsking] = useState(0);
  const [busy, setBusy] = useState(false);
  const alive = useRef(true);
  const hindrance = hindranceInWords();

  useEffect(() => {
    if (hindrance) return undefined;
    if (oauthState() === "expected") {
      const timer = setTimeout(() => location.reload(), RELOAD_MS);
      return () => clearTimeout(timer);
    }
    findOffer(homeserver).then(setOffer, (error) => setProblem(sentenceFor(error)));
    return undefined;
  }, [asking]);
  useEffect(
    () => () => {
      alive.current = false;
    },
    [],
  );

  /** @param {() => Promise<unknown>} attempt */
  async function attempt(attempt) {
    setBusy(true);
    setProblem("");
    setNotice("");
    try {
      await attempt();
    } catch (error) {
      if (!(error instanceof MatrixError)) throw error;
      setProblem(sentenceFor(error));
      if (error.status === 429) await pause(error.retryAfterMs);
    } finally {
      if (alive.current) setBusy(false);
    }
  }

  /** @param {SubmitEvent} event */
  function submit(event) {
    event.preventDefault();
    const form = new FormData(/** @type {HTMLFormElement} */ (event.currentTarget));
    const credentials = {
      type: "m.login.password",
      identifier: identifierOf(String(form.get("username")).trim()),
      password: String(form.get("password")),
    };
    attempt(async () => onSignedIn(await patiently(() => logIn(homeserver, credentials))));
  }

  /**
   * @template T
   * @param {() => Promise<T>} request
   */
  async function patiently(request) {
    try {
      return await request();
    } catch (error) {
      if (!(error instanceof MatrixError) || error.status !== 429) throw error;
      if (error.retryAfterMs > SHORT_WAIT_MS) throw error;
      setProblem(sentenceFor(error));
      await pause(error.retryAfterMs);
      setProblem("");
      return request();
    }
  }

  function again() {
    setProblem("");
    setAsking(asking + 1);
  }

  if (hindrance) return html`<p class="problem" role="alert">${hindrance}</p>`;
  const server = offer?.oauth;
  const offersNothing =
    offer !== null && !offer.oauth && !offer.password && offer.providers.length === 0;
  return html`
    <section class="card narrow">
      <${Title} lead=${t("signin.lead")}>${t("signin.title")}<//>
      ${notice && html`<p class="notice" role="status">${notice}</p>`}
      ${offer?.password && html`<${PasswordForm} onSubmit=${submit} busy=${busy} />`}
      ${offer?.providers.map(
        (/** @type {{id: string, name: string}} */ { id, name }) => html`
          <button
            key=${id}
            type="button"
            class="button"
            disabled=${busy}
            onClick=${() => goToProvider(homeserver, id)}
          >
            ${name ? t("signin.ssoWith", { name }) : t("signin.sso")}
          </button>
        `,
      )}
      ${server && html`
        <button
          type="button"
          class="button"
          disabled=${busy}
          onClick=${() => attempt(() => goToServer(server, homeserver, ownDeviceId()))}
        >
          ${t("signin.oauth", { host: new URL(server.authorize).host })}
        </button>
      `}
      ${offersNothing && html`<p class="problem" role="alert">${t("signin.nothing")}</p>`}
      ${offer === null && !problem && html`<p role="status">${t("signin.looking")}</p>`}
      <div role="alert">${problem && html`<p class="problem">${problem}</p>`}</div>
      ${offer === null && problem && html`
        <button type="button" class="button" onClick=${again}>${t("signin.again")}</button>
      `}
    </section>
  `;
}

/** @param {{onSubmit: (event: SubmitEvent) => void, busy: boolean}} props */
function PasswordForm({ onSubmit, busy }) {
  return html`
    <form onSubmit=${onSubmit}>
      <label class="field">
        <span>${t("signin.user")}</span>
        <input
          name="username"
          autocomplete="username"
          autocapitalize="none"
          spellcheck="false"
          required
        />
      </label>
      <label class="field">
        <span>${t("signin.password")}</span>
        <input
          name="password"
          type="password"
          autocomplete="current-password"
          required
        />
      </label>
      <button type="submit" class="button" disabled=${busy}>${t("signin.button")}</button>
    </form>
  `;
}
