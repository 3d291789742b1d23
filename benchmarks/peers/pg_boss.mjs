// pg-boss 12: jobs in its table, and getJobById for one after another, so many at a time.
import { writeFileSync } from 'node:fs'
import { ids, require, run } from '../../tests/pgboss/node/stages.mjs'

const [dsn, jobs, inFlight, warmUp, file] = [process.argv[2], ...process.argv.slice(3, 6).map(Number), process.argv[6]]
const { PgBoss } = require('pg-boss-12')
const boss = new PgBoss({ connectionString: dsn, max: inFlight, supervise: false, schedule: false })
boss.on('error', error => { throw error })
const wait = seconds => new Promise(resolve => setTimeout(resolve, 1000 * seconds))
const AT_ONCE = 10_000
let known = []
let latencies = []
let asking = []
let stopped = true

async function ask () {
  while (!stopped) {
    const id = known[Math.floor(Math.random() * known.length)]
    const sent = performance.now()
    const job = await boss.getJobById('work', id)
    if (job.id !== id) throw new Error(`${id} was asked for, ${job.id} came`)
    latencies.push(performance.now() - sent)
  }
}

await run({
  async fill () {
    await boss.start()
    await boss.createQueue('work')
    for (let from = 0; from < jobs; from += AT_ONCE) {
      const count = Math.min(AT_ONCE, jobs - from)
      const data = Array.from({ length: count }, (_, n) => ({ data: { userId: `user-${from + n}` } }))
      await boss.insert('work', data)
    }
    const found = await boss.getDb().executeSql("SELECT id FROM pgboss.job WHERE name = 'work'")
    known = ids(found.rows)
    await boss.getDb().executeSql('VACUUM ANALYZE pgboss.job')
    return [known.length]
  },
  async begin () {
    stopped = false
    asking = Array.from({ length: inFlight }, ask)
    await wait(warmUp)
    latencies = []
  },
  async end () {
    const seen = latencies
    latencies = []
    stopped = true
    await Promise.all(asking)
    writeFileSync(file, JSON.stringify(seen))
  }
})
