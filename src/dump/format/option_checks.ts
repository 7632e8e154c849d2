// Checks of the values of options that several functions take. undefined stands for an option that was left out.

import { describe, wrong } from '../../engine/check.js';
import { Device } from '../../engine/device.js';

function check(isRight: boolean, operation: string, option: string, expected: string, value: unknown): void {
  if (!isRight && value !== undefined) throw new TypeError(wrong(operation, option, expected, describe(value)));
}

export const checkCallback = (operation: string, option: string, value: unknown): void =>
  check(typeof value === 'function', operation, option, 'a function', value);

export const checkSignal = (operation: string, value: unknown): void =>
  check(value instanceof AbortSignal, operation, 'signal', 'an AbortSignal', value);

export const checkDevice = (operation: string, value: unknown): void =>
  check(value instanceof Device, operation, 'device', 'what openDevice or getDefaultDevice gives', value);

const longestShown = 200;

/** A value for a message, as JSON where it can be written so: `["text"]`, `"5"`, `5n`, `NaN`. */
export function inJson(value: unknown): string {
  if (typeof value === 'number') return String(value);
  if (typeof value === 'bigint') return `${value}n`;
  try {
    const text = JSON.stringify(value) ?? describe(value);
    return text.length > longestShown ? `${text.slice(0, longestShown)}…` : text;
  } catch {
    return describe(value);
  }
}
