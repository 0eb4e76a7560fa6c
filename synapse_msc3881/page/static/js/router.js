// SPDX-License-Identifier: AGPL-3.0-or-later
/** Which screen is shown stands in the address, behind its "#", where no server sees it. */
import { useEffect, useState } from "./html.js";

/** @typedef {{screen: string, ids: string[]}} Route */

const SCREENS = ["devices", "rooms", "why"];

/** @returns {Route} */
function read() {
  const [screen = "", ...ids] = location.hash.replace(/^#\/?/, "").split("/");
  try {
    const decoded = ids.map(decodeURIComponent).filter((id) => id !== "");
    return SCREENS.includes(screen) ? { screen, ids: decoded } : { screen: "devices", ids: [] };
  } catch {
    return { screen: "devices", ids: [] };
  }
}

/**
 * @param {string} screen
 * @param {string[]} ids
 */
export const link = (screen, ...ids) => `#/${[screen, ...ids.map(encodeURIComponent)].join("/")}`;

/** @returns {Route} */
export function useRoute() {
  const [route, setRoute] = useState(read);
  useEffect(() => {
    const onChange = () => setRoute(read());
    addEventListener("hashchange", onChange);
    onChange(); // It may have changed before anybody listened.
    return () => removeEventListener("hashchange", onChange);
  }, []);
  return route;
}
