// Runs the stages of a script as the test names them, a line each, and answers each with a line.
import { createRequire } from 'node:module'
import readline from 'node:readline'

// From the folder that npm installed into, not from this file's.
export const require = createRequire(`${process.cwd()}/`)

export async function run (stages) {
  for await (const name of readline.createInterface({ input: process.stdin })) {
    const answer = await stages[name]()
    console.log([name, ...(answer ?? [])].join(' '))
  }
  process.exit(0)
}

export const ids = jobs => jobs.map(job => job.id)
