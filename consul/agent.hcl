# The Consul client agent of a node that runs Hydra; beside your own settings (data_dir, retry_join, encrypt, tls).
# Its token (acl.tokens.agent) has the policy of `hydra acl show agent --node NAME`.

server = false

# An agent that leaves takes the node out of the catalog, and with it at once every session of the node: the slot of
# a replica in mid-reload would be free, and the node would count as gone. An agent that only stops loses none.
leave_on_terminate      = false
skip_leave_on_interrupt = true

acl {
  enabled        = true
  default_policy = "deny"

  # While the servers are away, known tokens keep their permissions.
  down_policy = "extend-cache"

  # As on the servers: what asks this agent for a listing is refused rather than told "empty".
  enable_key_list_policy = true
}

limits {
  # The node's watches, consul-template and handlers all come from one address; the default is 200 connections, and
  # a consul-template that is told to read its configuration again leaves old ones behind for a while.
  http_max_conns_per_client = 5000
}

# Nobody runs commands on nodes through Consul. Checks that run scripts are not needed: services answer HTTP or TCP.
disable_remote_exec        = true
enable_script_checks       = false
enable_local_script_checks = false
