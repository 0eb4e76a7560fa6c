// SPDX-License-Identifier: AGPL-3.0-or-later
// As much of Preact as the page uses.
export function h(type: unknown, props: object | null, ...children: unknown[]): unknown;
export function render(node: unknown, parent: Element): void;
