// SPDX-License-Identifier: AGPL-3.0-or-later
/** Starts the page. */
import { App } from "./app.js";
import { html, render } from "./html.js";
import { loadTexts } from "./i18n.js";
import { start } from "./session.js";

const [session] = await Promise.all([start(), loadTexts()]);
const root = /** @type {HTMLElement} */ (document.getElementById("app"));
root.replaceChildren();
render(html`<${App} session=${session} />`, root);
