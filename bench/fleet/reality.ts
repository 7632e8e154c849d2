// A small fleet of real workers on a real Redis, killed with SIGKILL at random times. What they lose is read from the
// folder: a killed worker leaves its leases and unfinished shards there.
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { leaseFile, shardFile } from '../../src/dump/format/manifest.js';
import { parseOwner } from '../../src/files/lease.js';
import { unfinishedOf } from '../../src/files/store/store.js';
import { run } from '../../test/cli/command.js';
import { sampleText } from '../../test/dump/folders.js';
import { random } from '../../test/support/random.js';
import { good, type Redis, startWorker, type Worker, withRedis } from '../../test/support/redis.js';

export interface RealFleet {
  readonly shards: number;
  readonly shardTokens: number;
  readonly workers: number;
  /** The mean life of a worker, in seconds; none is killed when it is `Infinity`. */
  readonly life: number;
  /** Seconds from a worker's death to the start of the next one. */
  readonly replacement: number;
  /** Seconds between two restarts of Redis, and how long it is away. */
  readonly redis?: { readonly every: number; readonly down: number } | undefined;
}

export interface RealOutcome {
  /** From the start of the first worker until all shards were there. */
  readonly seconds: number;
  readonly deaths: number;
  readonly restarts: number;
  /** Shards that were being computed or finished when their worker was killed. */
  readonly lostShards: number;
  /** Seconds from a worker's start to its first lease, for each worker that lived so long. */
  readonly starts: readonly number[];
  /** Seconds between two finished shards of a worker. */
  readonly between: readonly number[];
  /** What `sonde verify` says of the folder. */
  readonly verified: string;
}

interface Lived {
  readonly worker: Worker;
  readonly began: number;
  /** When its first lease was seen. */
  leased?: number;
  /** When each shard was reported, in milliseconds. */
  readonly reported: number[];
}

export async function realFleet(fleet: RealFleet, seed: number): Promise<RealOutcome> {
  let outcome: RealOutcome | undefined;
  await withRedis(async (redis, at) => {
    outcome = await new Reality(fleet, seed, redis, at('out'), at('corpus.txt')).run();
  });
  return outcome as RealOutcome;
}

/** The process that has a lease; undefined when it has ended meanwhile. */
const ownerOf = async (lease: string): Promise<number | undefined> =>
  parseOwner(await readFile(lease, 'utf8').catch(() => ''))?.pid;

class Reality {
  readonly #fleet: RealFleet;
  readonly #redis: Redis;
  readonly #out: string;
  readonly #corpus: string;
  readonly #lives;
  readonly #restarts;
  readonly #all: Lived[] = [];
  /** Unfinished files that were counted. */
  readonly #seen = new Set<string>();
  /** All shards are there: nobody is killed any more, and one of the workers merges. */
  #isCalm = false;
  #isOver = false;
  #deaths = 0;
  #redisRestarts = 0;
  #lostShards = 0;

  constructor(fleet: RealFleet, seed: number, redis: Redis, out: string, corpus: string) {
    this.#fleet = fleet;
    this.#redis = redis;
    this.#out = out;
    this.#corpus = corpus;
    this.#lives = random(2 * seed);
    this.#restarts = random(2 * seed + 1);
  }

  async run(): Promise<RealOutcome> {
    const { shards, shardTokens, workers } = this.#fleet;
    const sample = await readFile(sampleText, 'utf8');
    await writeFile(this.#corpus, sample.repeat(Math.ceil((shards * shardTokens * 6) / sample.length)));
    const words = ['--text', this.#corpus, '--hook', '1/resid/post_mlp', '--context', '128', '--out', this.#out];
    const size = ['--shard-tokens', `${shardTokens}`, '--limit', `${shards * shardTokens}`];
    good(await run(['queue', 'plan', '--redis', this.#redis.url, ...words, ...size]));
    const start = performance.now();
    const slots = Array.from({ length: workers }, () => this.#fillSlot());
    const restarts = this.#restartRedis();
    while ((await this.#shardsThere()) < shards) await sleep(50);
    const seconds = (performance.now() - start) / 1000;
    this.#isCalm = true;
    while (!(await this.#isMerged())) await sleep(50);
    this.#isOver = true;
    await Promise.all([...slots, restarts]);
    const { code, stdout, stderr } = await run(['verify', this.#out]);
    if (code !== 0) throw new Error(`the folder is not whole: ${stdout}${stderr}`);
    return {
      seconds,
      deaths: this.#deaths,
      restarts: this.#redisRestarts,
      lostShards: this.#lostShards,
      starts: this.#all.flatMap(({ began, leased }) => (leased === undefined ? [] : [(leased - began) / 1000])),
      between: this.#all.flatMap(({ reported }) =>
        reported.slice(1).map((time, i) => (time - (reported[i] as number)) / 1000),
      ),
      verified: stdout.trim().split('\n').at(-1) ?? '',
    };
  }

  async #shardsThere(): Promise<number> {
    const names = await readdir(this.#out).catch(() => []);
    for (const name of names.filter((each) => each.endsWith('.claim'))) {
      const pid = await ownerOf(join(this.#out, name));
      const lived = this.#all.find(({ worker }) => worker.child.pid === pid);
      if (lived) lived.leased ??= performance.now();
    }
    return names.filter((name) => /^shard-\d+\.safetensors$/.test(name)).length;
  }

  /** Whether the dump is complete, and the worker that merged has let go of it. */
  async #isMerged(): Promise<boolean> {
    const names = await readdir(this.#out);
    return names.includes('manifest.json') && !names.some((name) => /^manifest(-.*|\.json\.claim.*)$/.test(name));
  }

  async #pause(seconds: number): Promise<void> {
    const end = performance.now() + seconds * 1000;
    while (!this.#isOver && performance.now() < end) await sleep(Math.min(50, Math.max(1, end - performance.now())));
  }

  /** One worker after the other, each killed at the end of its life. */
  async #fillSlot(): Promise<void> {
    const { life, replacement } = this.#fleet;
    while (!this.#isOver) {
      const worker = startWorker(this.#redis.url);
      const lived: Lived = { worker, began: performance.now(), reported: [] };
      worker.child.stdout?.on('data', (text: Buffer) => {
        const shards = text.toString().match(/^shard /gm) ?? [];
        lived.reported.push(...shards.map(() => performance.now()));
      });
      this.#all.push(lived);
      await this.#pause(life === Number.POSITIVE_INFINITY ? life : -life * Math.log(1 - this.#lives.next()));
      while (this.#isCalm && !this.#isOver) await sleep(50);
      const isKilled = !this.#isOver;
      worker.child.kill('SIGKILL');
      await worker.ended;
      if (isKilled) await this.#countLost(worker.child.pid as number);
      await this.#pause(replacement);
    }
  }

  async #countLost(pid: number): Promise<void> {
    this.#deaths++;
    const names = await readdir(this.#out).catch(() => []);
    // What an attempt that was killed earlier has left may still be there.
    const unfinished = names.filter((name) => unfinishedOf(name) !== undefined && !this.#seen.has(name));
    const shards = new Set(unfinished.map(unfinishedOf));
    for (let index = 0; index < this.#fleet.shards; index++) {
      if (!shards.has(shardFile(index))) continue;
      const lease = join(this.#out, leaseFile({ index, count: this.#fleet.shards }));
      if ((await ownerOf(lease)) !== pid) continue;
      this.#lostShards++;
      for (const name of unfinished) if (unfinishedOf(name) === shardFile(index)) this.#seen.add(name);
    }
  }

  async #restartRedis(): Promise<void> {
    const { redis } = this.#fleet;
    if (!redis) return;
    for (;;) {
      await this.#pause(-redis.every * Math.log(1 - this.#restarts.next()));
      if (this.#isCalm) return;
      this.#redisRestarts++;
      await this.#redis.stop();
      await sleep(redis.down * 1000);
      await this.#redis.start();
    }
  }
}
