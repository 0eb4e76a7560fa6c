// SPDX-License-Identifier: AGPL-3.0-or-later
/** The screen to sign in. */
import { Problem, Title, useChange } from "./components.js";
import { html, useState } from "./html.js";
import { t } from "./i18n.js";
import { signIn } from "./session.js";

/** @param {{onSignedIn: (session: any) => void}} props */
export function SignIn({ onSignedIn }) {
  const [user, setUser] = useState("");
  const [password, setPassword] = useState("");
  const { busy, error, run } = useChange();
  const submit = (/** @type {any} */ event) => {
    event.preventDefault();
    void run(async () => onSignedIn(await signIn(user, password)));
  };
  return html`<form class="card narrow" onSubmit=${submit} aria-busy=${busy}>
    <${Title}>${t("signin.title")}<//>
    <label class="field">
      <span>${t("signin.user")}</span>
      <input autocomplete="username" value=${user} onInput=${(/** @type {any} */ e) => setUser(e.currentTarget.value)} />
    </label>
    <label class="field">
      <span>${t("signin.password")}</span>
      <input type="password" autocomplete="current-password" value=${password} onInput=${(/** @type {any} */ e) => setPassword(e.currentTarget.value)} />
    </label>
    <button class="button">${t("signin.button")}</button>
    <${Problem} error=${error} />
  </form>`;
}
