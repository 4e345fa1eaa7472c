"""boto3's transfer manager, to compare with: everything below a prefix into a folder. Run by `downloads`."""

import os
import sys
from pathlib import Path

import boto3
from s3transfer.manager import TransferManager

bucket, prefix, target = sys.argv[1:]
client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
Path(target).mkdir(parents=True)
with TransferManager(client) as manager:
    waits = [
        manager.download(bucket, row["Key"], str(Path(target, row["Key"].removeprefix(prefix))))
        for page in pages
        for row in page.get("Contents", ())
    ]
    for wait in waits:
        wait.result()
