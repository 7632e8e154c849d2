// What sonde attribute prints: a table for each group, or one line of JSON.
import { threeDigits, withEscapes } from '../files/text.js';
import type {
  AttributedFeature,
  Attribution,
  AttributionDirection,
  AttributionGroup,
} from '../transformer/attribution/attribute.js';
import { aligned } from './terminal.js';

/** An attribution, and what it is one of. */
export interface Attributed extends Attribution {
  readonly prompt: string;
  readonly tokens: readonly number[];
  readonly target: number;
  readonly instead: number | undefined;
  readonly direction: AttributionDirection;
  readonly textOf: (token: number) => string;
}

export function attributionLines(attributed: Attributed): string[] {
  const { score, targetLogit, insteadLogit, tokens, target, instead, direction, textOf, groups } = attributed;
  const quoted = (token: number) => JSON.stringify(textOf(token));
  const logits = [targetLogit, insteadLogit].map((logit) => (logit ?? 0).toFixed(3));
  const what =
    instead === undefined
      ? `logit of ${quoted(target)}`
      : `logit of ${quoted(target)} minus that of ${quoted(instead)}`;
  const parts = instead === undefined ? '' : ` (${logits.join(' minus ')})`;
  return [
    `${what}, behind ${tokens.length === 1 ? 'one token' : `${tokens.length} tokens`}: ${score.toFixed(3)}${parts}`,
    'attribution: value times gradient, about what it would lose if that value alone were 0',
    ...groups.flatMap((group) => groupLines(group, direction, ({ position }) => quoted(tokens[position] as number))),
  ];
}

/** What is listed, and what is said where nothing is. */
const listings: Readonly<Record<AttributionDirection, readonly [listed: string, none: string]>> = {
  for: ['those that speak for the target', 'none speaks for the target'],
  against: ['those that speak against the target', 'none speaks against the target'],
  both: ['the largest in size', 'none has any effect'],
};

function groupLines(
  { kind, name, sum, strongest }: AttributionGroup,
  direction: AttributionDirection,
  textAt: (at: AttributedFeature) => string,
): string[] {
  const [listed, none] = listings[direction];
  const title = `${kind}s, ${name}: ${signed(sum)} in all; ${strongest.length === 0 ? none : listed}`;
  if (strongest.length === 0) return [title];
  const rows = strongest.map((feature) => {
    const { location, index, position, value, gradient, attribution } = feature;
    const numbers = [threeDigits(value), threeDigits(gradient), signed(attribution)];
    return [location, textAt(feature), String(position), String(index), ...numbers];
  });
  const header = ['location', 'token', 'position', kind, 'value', 'gradient', 'attribution'];
  return [title, ...aligned([header, ...rows], 2).map((line) => `  ${line}`)];
}

const signed = (x: number): string => `${x > 0 ? '+' : ''}${threeDigits(x)}`;

/** Control characters that JSON.stringify leaves are escaped too: the line may go to a terminal. */
export function attributionJson(attributed: Attributed): string {
  const { prompt, tokens, target, instead, direction, textOf, score, targetLogit, insteadLogit, groups } = attributed;
  const shown = (token: number) => ({ token, text: textOf(token) });
  const told = {
    prompt,
    tokens: tokens.map(shown),
    target: { ...shown(target), logit: targetLogit },
    ...(instead !== undefined && { instead: { ...shown(instead), logit: insteadLogit } }),
    ...{ score, direction },
    groups: groups.map((group) => ({
      ...group,
      strongest: group.strongest.map((feature) => ({ ...feature, ...shown(tokens[feature.position] as number) })),
    })),
  };
  return withEscapes(JSON.stringify(told));
}
