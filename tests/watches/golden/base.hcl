# Written by `hydra node run` at each start; the templates are in instances.hcl, written by reload.
# Address and token come from the environment (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN).
consul {
  retry {
    attempts    = 0    # for ever; the default gives up after five minutes without Consul and exits
    max_backoff = "2s" # the default of a minute would leave readiness files late after an outage
  }
}

max_stale        = "0s"  # the default reads from any server, which may lag behind what reload wrote
block_query_wait = "60s"
log_level        = "warn"
pid_file         = "/var/lib/hydra/state/consul-template.pid" # reload sends HUP here when instances come or go
