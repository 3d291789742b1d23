// pg-boss 12: jobs through all of its states by its own API.
import { ids, require, run } from './stages.mjs'

const [dsn, total] = [process.argv[2], Number(process.argv[3])]
const { PgBoss } = require('pg-boss-12')
const boss = new PgBoss({ connectionString: dsn, supervise: false, schedule: false })
boss.on('error', error => { throw error })
const part = share => Math.round(total * share)
const fetch = (queue, share) => boss.fetch(queue, { batchSize: part(share) })
const jobs = (share, options) => Array.from({ length: part(share) }, (_, n) => ({
  data: { userId: `user-${n % 7}`, batch: { id: `batch-${n % 11}` } }, priority: n % 3, ...options
}))
const kept = {}

await run({
  async install () {
    await boss.start()
    await boss.createQueue('plain', { retryLimit: 0 })
    await boss.createQueue('again', { retryLimit: 2 })
    // A table of its own, which comes while the bridge runs.
    await boss.createQueue('apart', { partition: true })
  },
  async insert () {
    await boss.insert('plain', jobs(0.4, { retryLimit: 0 }))
    await boss.insert('again', jobs(0.4, { retryLimit: 2 }))
    await boss.insert('apart', jobs(0.2))
  },
  async work () {
    const plain = ids(await fetch('plain', 0.3))
    await boss.complete('plain', plain.slice(0, part(0.2)), { rows: 41, text: 'bär' })
    kept.failed = plain.slice(part(0.2), part(0.26))
    await boss.fail('plain', kept.failed, new Error('no such table'))
    kept.active = plain.slice(part(0.26))
    const again = ids(await fetch('again', 0.36))
    await boss.fail('again', again.slice(0, part(0.24)), { reason: 'busy' })
    await boss.complete('again', again.slice(part(0.24), part(0.32)))
  },
  async cancel () {
    kept.waiting = ids(await boss.findJobs('apart')).slice(0, part(0.12))
    await boss.cancel('apart', kept.waiting)
    kept.started = kept.active.slice(0, part(0.02))
    await boss.cancel('plain', kept.started)
  },
  async resume () {
    await boss.resume('apart', kept.waiting.slice(0, part(0.06)))
    await boss.resume('plain', kept.started.slice(0, part(0.01)))
    // Resumed ones among them, that were never seen as created.
    const taken = ids(await fetch('apart', 0.1))
    await boss.complete('apart', taken.slice(0, part(0.05)))
    await boss.cancel('apart', taken.slice(part(0.05), part(0.06)))
  },
  async retry () {
    const second = ids(await fetch('again', 0.2))
    await boss.fail('again', second.slice(0, part(0.1)), { reason: 'still busy' })
    await boss.complete('again', second.slice(part(0.1), part(0.15)))
    const third = ids(await fetch('again', 0.08))
    await boss.fail('again', third.slice(0, part(0.04)))
    await boss.retry('plain', kept.failed.slice(0, part(0.02)))
  },
  async end () {
    await boss.stop()
  }
})
