// SPDX-License-Identifier: AGPL-3.0-or-later
declare const htm: {
  bind(
    h: (type: unknown, props: object | null, ...children: unknown[]) => unknown,
  ): (strings: TemplateStringsArray, ...values: unknown[]) => any;
};
export default htm;
