# Consul servers, as Hydra needs them; beside your own settings (data_dir, bootstrap_expect, retry_join, encrypt, tls).
# Consul 1.22.5 or newer. Not 1.22.4: its HTTP server cuts every blocking query after 30 s.

server = true

acl {
  enabled        = true
  default_policy = "deny"
  down_policy    = "extend-cache"

  # A denied listing is refused (403). Without this it would look empty, and "empty" would reach watches and
  # consul-template as if everything had been deleted. `hydra acl show` grants `list` where it is needed.
  enable_key_list_policy = true
}

performance {
  # Leader election in seconds, not in the half minute of the default, which is for very small machines.
  raft_multiplier = 1
}

limits {
  # Each `consul watch` and each blocking query of a handler holds a connection, and the limit counts by source
  # address: behind one address the default of 200 ends in 429 for everybody.
  http_max_conns_per_client = 5000
}

ui_config {
  enabled = true
}

# Nobody runs commands on nodes through Consul.
disable_remote_exec        = true
enable_script_checks       = false
enable_local_script_checks = false

# Leave http_config.write_timeout and read_timeout at their default of 15 minutes: below about 5.5 minutes they cut
# blocking queries, and every watch fires again and again.
