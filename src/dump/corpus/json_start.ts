// Tells whether text is JSON, by its beginning alone. JSON.parse says so only of a whole text.

const token = /\s*(?:("[^"\\]*(?:\\.[^"\\]*)*")|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null|([{}[\],:]))/y;
/** What may stand at the end of a text that was cut: the beginning of a string, a number or a word. */
const cutToken =
  /^\s*(?:"[^"\\]*(?:\\.[^"\\]*)*\\?|-?[\d.eE+-]*|t(?:r(?:ue?)?)?|f(?:a(?:l(?:se?)?)?)?|n(?:u(?:ll?)?)?)$/;

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

/** Whether each line is a JSON object. `isWhole` is false when more text follows, and the last line may be cut. */
export function isJsonLines(text: string, isWhole: boolean): boolean {
  const lines = text.split('\n');
  const last = isWhole ? '' : (lines.pop() as string);
  const given = lines.filter((line) => line.trim() !== '');
  const isCut = last.trim() !== '';
  if (given.length === 0 && !isCut) return false;
  return given.every(isObject) && (!isCut || (last.trimStart().startsWith('{') && jsonStart(last) !== 'none'));
}

function isObject(line: string): boolean {
  if (!line.trimStart().startsWith('{')) return false;
  try {
    JSON.parse(line);
    return true;
  } catch {
    return false;
  }
}
