"""Everything that runs on a machine because a Consul key changed.

    channels/ services/ nodes/ verdicts/  ->  plan    ->  desired/<node>
    desired/<node>                        ->  sync    ->  actual/<node>     (downloads, cleans up)
    actual/<node>, nodes/<node>/          ->  reload  ->  states/<node>     (one replica at a time)
    Consul catalog                        ->  discover -> nodes/<node>/instances, nodes/<node>/alive
    rollouts/                             ->  judge   ->  verdicts/         (checks canaries)
    channels/ settings, tombstones        ->  retain  ->  deletes what retention allows
    everything                            ->  record  -> served/, recorded/, audit/, [notify]
    a timer                               ->  resync  ->  calls the same handlers again

Each handler reads the world once, asks `handlers.core` what to do, does it in small idempotent steps
through `handlers.adapters`, and returns the one sentence that it logs.
"""
