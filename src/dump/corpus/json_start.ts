// Tells whether text is JSON, by its beginning alone. JSON.parse says so only of a whole text.

// NaN and Infinity are no JSON, but Python writes them.
const token =
  /\s*(?:("[^"\\]*(?:\\.[^"\\]*)*")|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null|NaN|-?Infinity|([{}[\],:]))/y;
/** What may stand at the end of a text that was cut: the beginning of a string, a number or a word. */
const cutToken =
  /^\s*(?:"[^"\\]*(?:\\.[^"\\]*)*\\?|-?[\d.eE+-]*|t(?:r(?:ue?)?)?|f(?:a(?:l(?:se?)?)?)?|n(?:u(?:ll?)?)?|Na?|-?I[nfit]*)$/;

type Expected = 'value' | 'value or ]' | 'key' | 'key or }' | ':' | ', or end';

/**
 * `whole` for one or several objects and arrays, one after the other; `begun` when only the end of the last one is
 * missing; `none` for all other text.
 */
export function jsonStart(text: string): 'whole' | 'begun' | 'none' {
  const open: string[] = [];
  let expected: Expected = 'value';
  for (let at = 0; ; ) {
    token.lastIndex = at;
    const match = token.exec(text);
    if (!match) {
      const rest = text.slice(at);
      if (open.length === 0) return rest.trim() === '' && at > 0 ? 'whole' : 'none';
      return cutToken.test(rest) ? 'begun' : 'none';
    }
    at = token.lastIndex;
    const [, string, sign] = match;
    const isFirst = expected === 'value' || expected === 'value or ]';
    if (sign === '{' || sign === '[') {
      if (!isFirst) return 'none';
      open.push(sign);
      expected = sign === '{' ? 'key or }' : 'value or ]';
    } else if (sign === '}' || sign === ']') {
      const isEmpty = expected === (sign === '}' ? 'key or }' : 'value or ]');
      if (open.pop() !== (sign === '}' ? '{' : '[') || !(isEmpty || expected === ', or end')) return 'none';
      expected = open.length === 0 ? 'value' : ', or end';
    } else if (sign === ',') {
      if (expected !== ', or end') return 'none';
      expected = open.at(-1) === '{' ? 'key' : 'value';
    } else if (sign === ':') {
      if (expected !== ':') return 'none';
      expected = 'value';
    } else if (expected === 'key' || expected === 'key or }') {
      if (string === undefined) return 'none';
      expected = ':';
    } else {
      if (!isFirst || open.length === 0) return 'none';
      expected = ', or end';
    }
  }
}

const string = '"[^"\\\\]*(?:\\\\.[^"\\\\]*)*"';
const keyOrItem = new RegExp(`[{,]\\s*${string}\\s*:|^\\s*\\[\\s*${string}\\s*,`);

/** Whether JSON that lacks its end is more than the bracket that many texts begin with: it has a key or an item. */
export const isCutJson = (text: string): boolean => jsonStart(text) === 'begun' && keyOrItem.test(text);

/**
 * Whether the lines are JSON objects: the first one is, and so are most. The last one may be cut, as `head -c` leaves
 * it. `isWhole` is false when more text follows.
 */
export function isJsonLines(text: string, isWhole: boolean): boolean {
  const [first, ...others] = text.split('\n').filter((line) => line.trim() !== '') as [string?, ...string[]];
  if (first === undefined) return false;
  const last = others.pop();
  if (last === undefined) return isObject(first) || (!isWhole && isBegun(first));
  if (!isObject(first)) return false;
  const found = 1 + others.filter(isObject).length + (isObject(last) || isBegun(last) ? 1 : 0);
  return found > (others.length + 2) / 2;
}

const isBegun = (line: string): boolean => line.trimStart().startsWith('{') && jsonStart(line) !== 'none';

function isObject(line: string): boolean {
  if (!line.trimStart().startsWith('{')) return false;
  try {
    parseJson(line);
    return true;
  } catch {
    return false;
  }
}

const stringOrNonFinite = new RegExp(`${string}|\\bNaN\\b|-?\\bInfinity\\b`, 'g');

/** The value of JSON, in which NaN, Infinity and -Infinity are null. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    try {
      return JSON.parse(text.replace(stringOrNonFinite, (match) => (match.startsWith('"') ? match : 'null')));
    } catch {
      throw error; // it speaks of the text as it is
    }
  }
}
