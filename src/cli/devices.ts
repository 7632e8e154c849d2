// sonde devices: lists the devices that tensors can live on, with the names of their arithmetic, and why others are not
// available.
import { Command } from 'commander';
import { type Arithmetic, listDevices } from '../engine/device.js';

const help = `
Machines whose devices have the same arithmetic may work on one dump: they give the same bits. A second name is given
for a dtype that has another one.`;

export const devicesCommand = (): Command =>
  new Command('devices')
    .description('list the devices that tensors can live on')
    .addHelpText('after', help)
    .action(() => {
      for (const { name, description, available, reason, arithmetic } of listDevices()) {
        console.log(`${name.padEnd(8)} ${description}${available ? '' : `: not available, ${reason}`}`);
        if (arithmetic) console.log(`${' '.repeat(8)} arithmetic ${showArithmetic(arithmetic)}`);
      }
    });

/** The name for float32, and those for other dtypes where they differ: `cpu-float32-1 (bfloat16 cpu-bfloat16-dot-1)`. */
function showArithmetic({ float32, ...others }: Arithmetic): string {
  const different = Object.entries(others).filter(([, name]) => name !== float32);
  const listed = different.map(([dtype, name]) => `${dtype} ${name}`).join(', ');
  return listed === '' ? float32 : `${float32} (${listed})`;
}
