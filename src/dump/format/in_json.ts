// Values in messages about options and files.
import { describe } from '../../engine/check.js';

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
