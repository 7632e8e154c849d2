// Records the finished shards of a run: each in the journal, at once, and all of them in the manifest, at the
// beginning, now and then, and at the end. So what is written grows with the number of shards, and a run that is killed
// at any moment loses none that it has recorded.
import { quietly } from '../../files/promises.js';
import type { Store } from '../../files/store/store.js';
import { JournalWriter } from '../format/journal.js';
import { digestOfSettings, inOrder, makeManifest, type ShardEntry, writeManifest } from '../format/manifest.js';
import type { DumpSettings } from '../format/settings.js';
import type { Computing, PreparedFolder } from './folder.js';

/** The manifest is written again when one of these is reached, and when the journal has a tenth of its shards. */
export interface ManifestPace {
  /** Seconds since the manifest was written. */
  readonly seconds: number;
  /** Bytes of the journal. */
  readonly bytes: number;
}

const usualPace: ManifestPace = { seconds: 60, bytes: 2 ** 24 };

/** The manifest has at most so many times as many shards as the journal when it is written again. */
const mostPerEntry = 10;

/** The complete shards, and the manifest and the journal that list them. */
export class ManifestWriter {
  readonly shards: Map<number, ShardEntry>;
  readonly #store: Store;
  readonly #settings: DumpSettings;
  readonly #folder: PreparedFolder;
  readonly #pace: ManifestPace;
  readonly #journal: JournalWriter;
  /** The shards that the manifest lists, in number; -1 when there is none yet. */
  #listed: number;
  #writtenAt = performance.now();
  #arithmetic: readonly string[] | undefined; // undefined until the manifest may be written
  #isGivenUp = false;
  #saving: Promise<void> = Promise.resolve();

  constructor(store: Store, settings: DumpSettings, folder: PreparedFolder, pace = usualPace) {
    this.#store = store;
    this.#settings = settings;
    this.#folder = folder;
    this.#pace = pace;
    this.#journal = new JournalWriter(store, settings.part, digestOfSettings(settings));
    this.shards = new Map(folder.shards);
    this.#listed = folder.manifest?.shards.length ?? -1;
  }

  /** To be called before the first shard is computed. See PreparedFolder. */
  async begin(computing: Computing): Promise<void> {
    if (this.#arithmetic) return;
    this.#arithmetic = await this.#folder.begin(computing);
    this.#listed = this.shards.size;
    this.#writtenAt = performance.now();
  }

  /** For a corpus without tokens: nothing must stay of a dump that has no shards. */
  giveUp(): void {
    this.#isGivenUp = true;
  }

  /** Records a finished shard, which is in the journal or the manifest when the promise resolves. */
  add(number: number, entry: ShardEntry): Promise<void> {
    this.shards.set(number, entry);
    this.#saving = quietly(this.#saving.then(() => this.#record(entry)));
    return this.#saving;
  }

  /** Writes the manifest of the complete dump, or part, and removes the journal. */
  complete(): Promise<void> {
    return this.#save(true);
  }

  async #record(entry: ShardEntry): Promise<void> {
    await this.#folder.check();
    await this.#journal.add(entry);
    if (this.#isDue()) await this.#save(false);
  }

  #isDue(): boolean {
    const { entries, bytes, isFull } = this.#journal;
    if (isFull) return true;
    if (entries * mostPerEntry < this.#listed) return false;
    return bytes >= this.#pace.bytes || performance.now() - this.#writtenAt >= this.#pace.seconds * 1000;
  }

  // Killed before the journal is removed, a run leaves the same shards in both.
  async #save(complete: boolean): Promise<void> {
    await this.#folder.check();
    const entries = inOrder(this.shards);
    await writeManifest(this.#store, makeManifest(this.#settings, this.#arithmetic ?? [], entries, complete));
    this.#listed = entries.length;
    this.#writtenAt = performance.now();
    await this.#removeJournal();
  }

  async #removeJournal(): Promise<void> {
    if (!this.#journal.mayExist) return;
    await this.#folder.check(); // the journal of another process must stay
    await this.#journal.remove();
  }

  /**
   * Ends a run. Tries once more to list all shards in the manifest: the disk may have been full of unfinished ones,
   * which are gone now. For a corpus without tokens, removes the manifest and returns a function that removes the
   * folder, if the run made it.
   */
  async settle(): Promise<(() => Promise<void>) | undefined> {
    await this.#saving.catch(() => {});
    // A failure to clean up must not hide the error of the run.
    if (this.#isGivenUp) return this.#folder.undo().catch(() => undefined);
    const isListed = this.#listed === this.shards.size;
    if (this.#arithmetic && !isListed) await this.#save(false).catch(() => {});
    else await this.#removeJournal().catch(() => {});
    await this.#journal.close().catch(() => {});
    return undefined;
  }
}
