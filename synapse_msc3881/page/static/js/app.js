// SPDX-License-Identifier: AGPL-3.0-or-later
/** The frame around the screens, and which of them is shown. */
import { Client } from "./client.js";
import { Announcer, Loading, Problem, Title, announce, announceWait } from "./components.js";
import { html, useEffect, useRef, useState } from "./html.js";
import { LANGUAGES, language, loadTexts, t } from "./i18n.js";
import { link, useRoute } from "./router.js";
import { DeviceScreen } from "./screens/device.js";
import { Devices } from "./screens/devices.js";
import { RoomScreen, Rooms } from "./screens/rooms.js";
import { Why } from "./screens/why.js";
import { SignIn } from "./signin.js";
import { Store } from "./store.js";

/** @import {Session} from "./types.js" */

/** How often to look for new devices while the page is seen: one request. */
const LOOK_MS = 60_000;

/** @param {{session: Session | null}} props  null where nobody is signed in */
export function App({ session: first }) {
  const [session, setSession] = useState(first);
  const [store, setStore] = useState(/** @type {Store | null} */ (null));
  const [shownLanguage, setShownLanguage] = useState(language());

  useEffect(() => {
    if (!session) return;
    session.onEnd(() => {
      setSession(null);
      setStore(null);
    });
    setStore(new Store(new Client(session, announceWait)));
  }, [session]);

  const choose = (/** @type {any} */ event) =>
    void loadTexts(event.currentTarget.value).then(() => setShownLanguage(language()));
  return html`<a class="skip" href="#main" onClick=${skip}>${t("app.skip")}</a>
    <header class="top">
      <p class="brand">${t("app.title")}</p>
      ${session && html`<${Navigation} />`}
    </header>
    <main id="main" key=${shownLanguage}>
      ${!session && html`<${SignIn} onSignedIn=${setSession} />`}
      ${session && store && html`<${Screens} store=${store} />`}
    </main>
    <footer class="bottom">
      ${session && html`<${SignedIn} session=${session} />`}
      <label class="language">
        <span>${t("app.language")}</span>
        <select value=${shownLanguage} onChange=${choose}>
          ${LANGUAGES.map(
            (code) =>
              html`<option key=${code} value=${code} lang=${code} selected=${code === shownLanguage}>
                ${t(`language.${code}`)}
              </option>`,
          )}
        </select>
      </label>
    </footer>
    <${Announcer} />`;
}

/** @param {any} event  of the link to the content, which must not become the route */
function skip(event) {
  event.preventDefault();
  focusTitle();
}

function focusTitle() {
  const title = /** @type {HTMLElement | null} */ (document.querySelector("main h1"));
  title?.focus();
}

function Navigation() {
  const { screen } = useRoute();
  return html`<nav class="tabs" aria-label=${t("app.screens")}>
    ${["devices", "rooms", "why"].map(
      (name) =>
        html`<a key=${name} href=${link(name)} aria-current=${screen === name ? "page" : undefined}>
          ${t(`${name}.title`)}
        </a>`,
    )}
  </nav>`;
}

/** @param {{session: Session}} props */
function SignedIn({ session }) {
  const [leaving, setLeaving] = useState(false);
  const signOut = () => {
    setLeaving(true);
    announce(t("app.signingOut"));
    void session.signOut().then(() => announce(""));
  };
  return html`<p class="who"><bdi>${session.userId}</bdi></p>
    <button type="button" class="button-quiet" aria-busy=${leaving} onClick=${signOut}>
      ${t("app.signOut")}
    </button>`;
}

/** @param {{store: Store}} props */
function Screens({ store }) {
  const route = useRoute();
  const [, setVersion] = useState(0);
  const [error, setError] = useState(/** @type {any} */ (null));
  const where = [route.screen, ...route.ids].join("/");
  const shown = useRef(where);

  const read = () => {
    setError(null);
    store
      .readDevices()
      .then(() => store.readRooms())
      .then(() => store.readTrouble())
      .then(() => store.readOwn())
      .then(() => store.followWords())
      .catch(setError);
  };
  useEffect(() => {
    const stop = store.subscribe(() => setVersion((/** @type {number} */ version) => version + 1));
    // In another language, it is shown anew.
    if (store.devices === null) read();
    // Another tab or app may have changed something while somebody was there, and a device that has
    // just been signed in is to be seen.
    const isShown = () => !document.hidden && store.devices !== null;
    const look = () => isShown() && void store.readIfOld().catch(() => null);
    const timer = setInterval(() => isShown() && void store.lookForDevices().catch(() => null), LOOK_MS);
    document.addEventListener("visibilitychange", look);
    addEventListener("focus", look);
    return () => {
      stop();
      clearInterval(timer);
      document.removeEventListener("visibilitychange", look);
      removeEventListener("focus", look);
    };
  }, [store]);

  const ready = store.devices !== null;
  useEffect(() => {
    const heading = document.querySelector("main h1")?.textContent?.trim().slice(0, 100);
    document.title = heading ? `${heading} – ${t("app.title")}` : t("app.title");
    // The first screen keeps the focus where a page has it; a further one is read from its heading, also
    // where it was chosen before there was anything to show.
    if (!ready || shown.current === where) return;
    shown.current = where;
    scrollTo(0, 0);
    focusTitle();
  });

  if (error) {
    return html`<${Title}>${t("devices.title")}<//><${Problem} error=${error} onRetry=${read} />`;
  }
  if (!ready) return html`<${Loading} />`;
  const [id, further] = route.ids;
  if (route.screen === "why") {
    return html`<${Why} key=${where} store=${store} roomId=${id} eventId=${further} />`;
  }
  if (route.screen === "rooms") {
    return id === undefined
      ? html`<${Rooms} store=${store} />`
      : html`<${RoomScreen} key=${id} store=${store} id=${id} />`;
  }
  return id === undefined
    ? html`<${Devices} store=${store} />`
    : html`<${DeviceScreen} key=${id} store=${store} id=${id} />`;
}
