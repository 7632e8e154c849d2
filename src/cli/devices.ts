// sonde devices: lists the devices that tensors can live on, and why others are not available.
import { Command } from 'commander';
import { listDevices } from '../engine/device.js';

export const devicesCommand = (): Command =>
  new Command('devices').description('list the devices that tensors can live on').action(() => {
    for (const { name, description, available, reason } of listDevices()) {
      console.log(`${name.padEnd(8)} ${description}${available ? '' : `: not available, ${reason}`}`);
    }
  });
