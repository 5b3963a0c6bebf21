#!/bin/sh
# A stored HdrHistogram has a maximum that nobody recorded, and libraries differ about it before
#
# Guess: encoding a histogram and decoding it again keeps its maximum, and libraries that read the
#   same text give the same maximum, mean and percentiles as the one that wrote it.
# Behaviour: the text has counts of ranges, and no maximum. The JavaScript library knows the exact
#   maximum until it writes; the reader, in whichever language, gets the upper end of the range
#   instead, up to 0.1 % more at three digits. The Python library returns the upper end from the
#   start. In JavaScript the 100th percentile is greater than the maximum. A value that is out of
#   range is dropped by Python, whose call returns False; JavaScript extends the range.
# Hence: do not compare maxima of a live and of a stored histogram, or of two libraries, and keep
#   the exact maximum beside the histogram if a limit is judged by it. Check what record_value()
#   returns.
# Versions: hdrhistogram 0.10.3 (PyPI), hdr-histogram-js 3.0.1 (npm)
# Seen:
#   recorded: 1000, 98765432
#   Python: maximum 98828287, 100th percentile 98828287
#   Python, stored and read by Python: maximum 98828287, 100th percentile 98828287
#   Python, stored and read by JavaScript: maximum 98828287, 100th percentile 98828287
#   JavaScript: maximum 98765432, 100th percentile 98828287
#   JavaScript, stored and read by JavaScript: maximum 98828287, 100th percentile 98828287
#   JavaScript, stored and read by Python: maximum 98828287, 100th percentile 98828287
#   a value out of range: Python returns False and has 2 values, JavaScript has 3 values
set -eu
needs=node
pypi='hdrhistogram==0.10.3 pbr==7.1.3'
npm='hdr-histogram-js@3.0.1 @assemblyscript/loader@0.19.23 base64-js@1.5.1 pako@1.0.11'
. "$(dirname "$0")/lib.sh"

cat >"$work/hdr.js" <<'JS'
// Reads {"values": [...]} or {"text": "..."}, and prints the histogram's figures and text.
const hdr = require("hdr-histogram-js");
const input = JSON.parse(require("fs").readFileSync(0));
const range = { lowestDiscernibleValue: 1, highestTrackableValue: 3600000000, numberOfSignificantValueDigits: 3 };
const histogram = input.text ? hdr.decodeFromCompressedBase64(input.text) : hdr.build(range);
for (const value of input.values || []) {
	histogram.recordValue(value);
}
console.log(JSON.stringify({
	max: histogram.maxValue,
	p100: histogram.getValueAtPercentile(100),
	text: hdr.encodeIntoCompressedBase64(histogram),
	count: histogram.totalCount,
}));
JS
JS=$work/hdr.js python3 - <<'EOF'
import json
import os
import subprocess
from hdrh.histogram import HdrHistogram

VALUES = [1000, 98_765_432]
OUT_OF_RANGE = 100_000_000_000


def javascript(**arguments):
    command = ["node", os.environ["JS"]]
    done = subprocess.run(command, input=json.dumps(arguments), check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def python(text):
    histogram = HdrHistogram.decode(text)
    return {"max": histogram.get_max_value(), "p100": histogram.get_value_at_percentile(100)}


def show(what, figures):
    print(f"{what}: maximum {figures['max']}, 100th percentile {figures['p100']}")


print("recorded:", ", ".join(map(str, VALUES)))
histogram = HdrHistogram(1, 3_600_000_000, 3)
for value in VALUES:
    histogram.record_value(value)
text = histogram.encode().decode()
show("Python", {"max": histogram.get_max_value(), "p100": histogram.get_value_at_percentile(100)})
show("Python, stored and read by Python", python(text))
show("Python, stored and read by JavaScript", javascript(text=text))
live = javascript(values=VALUES)
show("JavaScript", live)
show("JavaScript, stored and read by JavaScript", javascript(text=live["text"]))
show("JavaScript, stored and read by Python", python(live["text"]))
returned = histogram.record_value(OUT_OF_RANGE)
print(f"a value out of range: Python returns {returned} and has {histogram.get_total_count()} values,", end=" ")
print(f"JavaScript has {javascript(values=VALUES + [OUT_OF_RANGE])['count']} values")
EOF
