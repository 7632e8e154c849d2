// The packages that queues need. They are optional: only users of queues install them.

export async function bullmq(): Promise<typeof import('bullmq')> {
  try {
    await import('ioredis');
    return await import('bullmq');
  } catch (cause) {
    throw new Error('sonde queue needs two optional packages that are not installed: npm install bullmq ioredis', {
      cause,
    });
  }
}
