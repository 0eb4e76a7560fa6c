// SPDX-License-Identifier: AGPL-3.0-or-later
/** What components are written with: Preact, its hooks, and templates in place of JSX. */
import { h, render } from "../vendor/preact.js";
import {
  useCallback,
  useEffect,
  useId,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "../vendor/hooks.js";
import htm from "../vendor/htm.js";

export const html = htm.bind(h);
export { render, useCallback, useEffect, useId, useLayoutEffect, useMemo, useRef, useState };
