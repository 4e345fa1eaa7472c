"""A handler as one would write it first, to compare with: boto3 and py-consul, imported at the top.

Reads what the watch says and what it noted before; does nothing when they are equal. Run by `start_up`.
"""

import json
import os
import sys
from pathlib import Path

import boto3

import consul

view = json.load(sys.stdin)
host, _, port = os.environ["CONSUL_HTTP_ADDR"].rpartition(":")
client = consul.Consul(host=host, port=int(port))  # type: ignore[attr-defined]  # mypy sees our folder
_, entry = client.kv.get(view["Key"])
objects = boto3.client("s3")
noted = Path(os.environ["HYDRA_ROOT"], "ordinary.noted")
if not noted.exists() or noted.read_text() != str(entry["ModifyIndex"]):
    objects.list_buckets()
    noted.write_text(str(entry["ModifyIndex"]))
