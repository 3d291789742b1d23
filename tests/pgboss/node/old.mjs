// pg-boss 9 and 10: a few jobs in each of their states, in `job` and in `archive`.
import { ids, require, run } from './stages.mjs'

const [dsn, version] = [process.argv[2], Number(process.argv[3])]
const PgBoss = require(`pg-boss-${version}`)
const pg = require('pg')
const boss = new PgBoss({
  connectionString: dsn, supervise: false, schedule: false, noSupervisor: true, noScheduling: true
})
boss.on('error', error => { throw error })
const db = new pg.Client(dsn)
const column = name => version === 9 ? name.replace('_', '') : name
const jobs = (count, options = {}) => Array.from({ length: count }, (_, n) => (
  { name: 'work', data: { userId: `user-${n % 2}`, retried: 'retryLimit' in options }, retryLimit: 0, ...options }
))
const fetch = count => version === 9 ? boss.fetch('work', count) : boss.fetch('work', { batchSize: count })
// From 10 on an operation names the queue too.
const on = (what, ...rest) => version === 9 ? boss[what](...rest) : boss[what]('work', ...rest)
const kept = {}

await run({
  async install () {
    await db.connect()
    await boss.start()
    if (version > 9) await boss.createQueue('work')
  },
  async work () {
    await boss.insert(jobs(20))
    await boss.insert(jobs(8, { retryLimit: 2 }))
    const taken = await fetch(28)
    // They come in no order.
    const once = ids(taken.filter(job => !job.data.retried))
    await on('complete', once.slice(0, 6), { rows: 1 })
    await on('fail', once.slice(6, 10), { reason: 'broken' })
    await on('cancel', once.slice(10, 13))
    kept.late = once.slice(13, 15)
    await on('fail', ids(taken.filter(job => job.data.retried)))
    kept.second = ids(await fetch(5))
    await on('complete', kept.second.slice(0, 2))
    await boss.insert(jobs(7))
    const { rows } = await db.query("SELECT id FROM pgboss.job WHERE state = 'created' ORDER BY id LIMIT 3")
    kept.waiting = ids(rows)
    await on('cancel', kept.waiting)
  },
  async archive () {
    // Long ago, by pg-boss's own columns: two are overdue, and what ended is old.
    await db.query(
      `UPDATE pgboss.job SET ${column('started_on')} = now() - interval '1 day' WHERE id = ANY($1)`,
      [kept.late]
    )
    if (version === 9) await boss.expire()
    await on('resume', kept.waiting.slice(0, 1))
    await db.query(
      `UPDATE pgboss.job SET ${column('completed_on')} = ${column('completed_on')} - interval '30 days'
       WHERE state = 'completed' OR id = ANY($1)`,
      [[...kept.late, kept.waiting[1]]]
    )
    await (version === 9 ? boss.archive() : boss.maintain())
    const { rows } = await db.query('SELECT count(*) FROM pgboss.archive')
    return [rows[0].count]
  },
  async end () {
    await boss.stop()
  }
})
