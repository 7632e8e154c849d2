// A thread that tokenises sections of text with GPT-2's tokenizer, in the order in which they come.
import { parentPort } from 'node:worker_threads';
import { gpt2Tokenizer } from '../../files/tokenizer/tokenizer.js';
import { encodingOf } from './encoding.js';
import { sectionTokens } from './section_tokens.js';
import type { ThreadAnswer, ThreadProblem, ThreadRequest } from './tokenizer_threads.js';

const { encode } = gpt2Tokenizer();

function answerTo({ nVocab, sections }: ThreadRequest): { answer: ThreadAnswer; memory: ArrayBuffer[] } {
  const encoding = encodingOf({ encode, nVocab });
  const results = sections.map(({ bytes, ...section }) => {
    // a Buffer arrives as a Uint8Array
    const { problem, ...result } = sectionTokens({ ...section, bytes: Buffer.from(bytes.buffer) }, encoding);
    return { ...result, problem: problem && problemOf(problem) };
  });
  const memory = results.flatMap(({ tokens, ends, documentEnds, offsets, untils, characters, lines }) =>
    [tokens, ends, documentEnds, offsets, untils, ...(characters ? [characters] : []), ...(lines ? [lines] : [])].map(
      ({ buffer }) => buffer,
    ),
  );
  return { answer: { results }, memory };
}

const problemOf = ({ name, message }: Error): ThreadProblem => ({ name, message });

parentPort?.on('message', (request: ThreadRequest) => {
  try {
    const { answer, memory } = answerTo(request);
    parentPort?.postMessage(answer, memory);
  } catch (error) {
    parentPort?.postMessage({ failed: String(error) } satisfies ThreadAnswer);
  }
});
