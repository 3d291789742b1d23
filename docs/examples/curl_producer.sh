#!/bin/sh
# A producer that has nothing but curl: three events of a job, in one batch.
# Usage: URL=http://127.0.0.1:8040 TOKEN=... curl_producer.sh JOB
# The token needs the permission jobs:write.
set -eu
job=$1

event() {
	printf '{"specversion":"1.0","id":"%s-%s","source":"//examples/curl","type":"job.%s","subject":"%s","data":%s}' \
		"$job" "$1" "$1" "$job" "$2"
}

curl --silent --show-error --fail-with-body "$URL/events" \
	-H "Authorization: Bearer $TOKEN" \
	-H "Content-Type: application/cloudevents-batch+json" \
	-d "[$(event created '{"jobType":"backup","owner":"alice"}'),$(event active '{"worker":"cron"}'),$(event completed '{"output":{"files":3}}')]"
