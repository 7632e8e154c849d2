// A thread that tokenises sections of text with GPT-2's tokenizer, in the order in which they come.
import { parentPort } from 'node:worker_threads';
import { gpt2Tokenizer } from '../../files/tokenizer/tokenizer.js';
import { encodingOf } from './encoding.js';
import { sectionTokens } from './section_tokens.js';
import type { ThreadAnswer, ThreadProblem, ThreadRequest } from './tokenizer_threads.js';

const { encode } = gpt2Tokenizer();

function answerTo({ nVocab, sections, memory }: ThreadRequest): { answer: ThreadAnswer; given: ArrayBuffer[] } {
  const encoding = encodingOf({ encode, nVocab });
  const results = sections.map(({ bytes, ...section }, i) => {
    // a Buffer arrives as a Uint8Array
    const request = { ...section, bytes: Buffer.from(bytes.buffer, 0, bytes.length) };
    const { problem, ...result } = sectionTokens(request, encoding, memory[i]);
    return { ...result, problem: problem && problemOf(problem) };
  });
  const used = results.map(({ tokens }) => tokens.buffer);
  const rest = [...sections.map(({ bytes }) => bytes.buffer), ...memory.filter((buffer) => !used.includes(buffer))];
  return { answer: { results, memory: rest }, given: [...used, ...rest] };
}

const problemOf = ({ name, message }: Error): ThreadProblem => ({ name, message });

parentPort?.on('message', (request: ThreadRequest) => {
  try {
    const { answer, given } = answerTo(request);
    parentPort?.postMessage(answer, given);
  } catch (error) {
    parentPort?.postMessage({ failed: String(error) } satisfies ThreadAnswer);
  }
});
