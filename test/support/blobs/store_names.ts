// Names that no store may take, and a check that every method of a store refuses them.
import { DiskStore } from '../../../src/files/store/disk_store.js';
import type { Store } from '../../../src/files/store/store.js';
import { rejects, throws } from '../harness.js';

/** Each name, with the reason in the message. */
export const hostileNames: readonly (readonly [name: string, why: RegExp])[] = [
  ['', /as it is empty/],
  ['.', /as it stands for a folder/],
  ['..', /as it stands for a folder/],
  ['../evil', /as it has a separator in it/],
  ['a/b', /as it has a separator in it/],
  ['a/../../evil', /as it has a separator in it/],
  ['/tmp/evil', /as it has a separator in it/],
  ['..\\evil', /as it has a separator in it/],
  ['C:\\evil', /as it has a separator in it/],
  ['evil/', /as it has a separator in it/],
  ['evil\0.safetensors', /as it has a control character/],
  ['evil\n', /as it has a control character/],
  ['\u001b[2Jevil', /as it has a control character/],
  ['evil\u009b', /as it has a control character/],
  ['evil\ud800', /an unpaired surrogate/],
  ['e'.repeat(256), /as it is 256 bytes long/],
  ['ü'.repeat(128), /as it is 256 bytes long/],
];

/** Every method that takes a name refuses such a one, and says so with the store's name and the name itself. */
export async function assertNamesStay(store: Store): Promise<void> {
  const tag = '0123abcd';
  for (const [name, why] of hostileNames) {
    const shown = JSON.stringify(name).replace('\u009b', '\\u009b');
    const message = new RegExp(
      `${escaped(`${store.name}: ${shown} cannot be the name of a file there`)}.*${why.source}`,
    );
    throws(() => store.pathOf(name), Error, message);
    const other = new DiskStore('.');
    for (const ask of [
      () => store.find(name),
      () => store.open(name),
      () => store.writeText(name, 'evil'),
      () => store.append(name),
      () => store.remove(name),
      () => store.draft(name, tag),
      () => store.draft(name, tag, '0-indices'),
      () => store.takeLease(name),
      () => store.canLink(other, name),
      () => store.link(other, name),
    ]) {
      await rejects(ask, message); // and does not throw
    }
  }
  for (const [tag, part] of [
    ['/../../evil', undefined],
    ['0123abcd', '/../../evil'],
    ['0123abcd', 'x'.repeat(250)],
  ] as const) {
    await rejects(() => store.draft('good', tag, part), /"good\..* cannot be the name of a file there/);
  }
}

const escaped = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
