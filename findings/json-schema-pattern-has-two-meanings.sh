#!/bin/sh
# One JSON Schema, one document, two verdicts: Python and JavaScript read a pattern differently
#
# Guess: a document that one validator accepts is valid for the other too, if the schema has only
#   plain anchors and classes. `^[a-z]+$` allows nothing but letters, and \d the digits 0 to 9.
# Behaviour: the specification takes regular expressions from ECMA 262, and Python's jsonschema uses
#   those of Python. There `$` also matches before a newline at the end, and \d and \w take digits
#   and letters of all scripts; ajv refuses these documents. Python fails at \p{L}, which ajv takes.
#   jsonschema checks no `format` unless asked, and ajv refuses a schema with one that it was not
#   given.
# Hence: names and numbers that were validated in Python (a CI, an admission check) may end with a
#   newline, and break a line-based file or a strict parser behind. Write [0-9], and (?!\n)$ or a
#   check of your own; ask for formats by name.
# Versions: jsonschema 4.23.0 (PyPI) with Python 3.11, ajv 8.17.1 (npm)
# Seen:
#   pattern ^[a-z]+$, "abc\n": jsonschema valid, ajv invalid
#   pattern ^\d+$, "\u0663" (an Arabic 3): jsonschema valid, ajv invalid
#   pattern ^\w+$, "\u00e9": jsonschema valid, ajv invalid
#   pattern ^\p{L}+$, "a": jsonschema error, ajv valid
#   pattern ^[a-z]+(?!\n)$, "abc\n": jsonschema invalid, ajv invalid
#   format ipv4, "10.1.0.999": jsonschema valid, ajv error
set -eu
needs=node
pypi='
	jsonschema==4.23.0
	jsonschema-specifications==2023.12.1
	referencing==0.35.1
	rpds-py==0.20.0
	attrs==24.2.0
'
npm='ajv@8.17.1 fast-deep-equal@3.1.3 fast-uri@3.0.6 json-schema-traverse@1.0.0 require-from-string@2.0.2'
. "$(dirname "$0")/lib.sh"

cat >"$work/ajv.js" <<'JS'
const Ajv = require("ajv/dist/2020");
const [schema, value] = JSON.parse(require("fs").readFileSync(0));
try {
	console.log(new Ajv().validate(schema, value) ? "valid" : "invalid");
} catch {
	console.log("error");
}
JS
JS=$work/ajv.js python3 - <<'EOF'
import json
import os
import re
import subprocess
from jsonschema import Draft202012Validator

CASES = [
    ("pattern", "^[a-z]+$", "abc\n", ""),
    ("pattern", r"^\d+$", "\u0663", " (an Arabic 3)"),
    ("pattern", r"^\w+$", "\u00e9", ""),
    ("pattern", r"^\p{L}+$", "a", ""),
    ("pattern", r"^[a-z]+(?!\n)$", "abc\n", ""),
    ("format", "ipv4", "10.1.0.999", ""),
]


def python(schema, value):
    try:
        return "valid" if Draft202012Validator(schema).is_valid(value) else "invalid"
    except re.error:
        return "error"


def javascript(schema, value):
    command = ["node", os.environ["JS"]]
    text = json.dumps([schema, value])
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout.strip()


for keyword, argument, value, remark in CASES:
    schema = {"type": "string", keyword: argument}
    print(f"{keyword} {argument}, {json.dumps(value)}{remark}:", end=" ")
    print(f"jsonschema {python(schema, value)}, ajv {javascript(schema, value)}")
EOF
