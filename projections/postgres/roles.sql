-- Least rights, once `migrate` has made the tables: a projector writes rows and makes no table, an
-- API process only reads. Give each process a login role that is a member of one of these.
DO $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'jobtrail_writer') THEN
    CREATE ROLE jobtrail_writer NOLOGIN;
  END IF;
  IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'jobtrail_reader') THEN
    CREATE ROLE jobtrail_reader NOLOGIN;
  END IF;
END $$;

GRANT USAGE ON SCHEMA jobtrail TO jobtrail_writer, jobtrail_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA jobtrail TO jobtrail_writer, jobtrail_reader;

GRANT INSERT, UPDATE, DELETE ON
  jobtrail.jobs, jobtrail.versions, jobtrail.counters, jobtrail.totals, jobtrail.beats
  TO jobtrail_writer;
-- What is never changed once it is written, but emptied with its partition.
GRANT INSERT, DELETE ON
  jobtrail.changes, jobtrail.trail_chunks, jobtrail.trail_keys, jobtrail.trail_said,
  jobtrail.skipped
  TO jobtrail_writer;
-- Names and partitions stay.
GRANT INSERT, UPDATE ON jobtrail.checkpoints TO jobtrail_writer;
GRANT INSERT ON jobtrail.types, jobtrail.audiences, jobtrail.audience_members TO jobtrail_writer;
