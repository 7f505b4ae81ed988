"""Where each scenario of River's conformance suite is played by our own tests: by its name, or by what plays it.

Performance scenarios measure, and so are no tests; bench/conformance.py plays them.
"""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parent.parent

PLAYED = {
    "conformance/test_transport.py": {
        "adapter_handshake_and_capabilities": "handshake_says_what_the_contract_wants",
    },
    "conformance/test_built_in_job.py": {
        "barrier_wait_and_release": "barriers_hold_jobs_until_released",
        "resumable_retry": "resumable_runs_no_step_twice",
        "resumable_validation": "resumable_state_is_checked_before_the_job_runs",
        "timeout_cancellation": "timeout_cancels_and_counts_as_a_failure",
        "transactional_completion": "transactional_complete",
    },
    "conformance/test_control_methods.py": {
        "cron_schedule_goldens": "cron_schedules",
        "deterministic_retry_clock_rng": "retry_delays_lie_within_rivers_bounds",
        "unique_hash_goldens": "unique_keys",
    },
    "conformance/test_start_options.py": {
        "extension_hook_middleware_order": "instrumented_client_traces_its_extensions",
        "maintenance_job_cleaner_retention": "retention_deletes_by_state_or_keeps_for_ever",
        "maintenance_queue_cleaner_keeps_active_queues": "queues_that_nobody_works_are_cleaned",
        "maintenance_reindexer_skips_artifacts": "reindexer_rebuilds_what_it_is_told_and_skips_debris",
        "periodic_due_job_available": "scheduled_job_becomes_due",
        "periodic_run_on_start": "periodic_job_runs_when_a_term_begins",
        "stuck_job_detection": "stuck_jobs_are_counted",
    },
    "conformance/test_transactions.py": {
        "transaction_abort_rollback_visibility": "failed_transaction_refuses_everything_but_its_end",
        "transaction_commit_visibility": "commit_makes_it_visible",
        "transaction_rollback_visibility": "every_operation_within_is_undone_by_a_rollback",
    },
    "conformance/test_scenarios_chaos.py": dict.fromkeys((
        "completion_row_lock_wait", "completion_transient_failure_retry", "ignored_cancellation_hard_abort",
        "leadership_renewal_under_slow_maintenance", "lost_notification_poll_recovery",
        "process_kill_restart_and_rescue",
    )),
    "conformance/test_scenarios_runtime.py": dict.fromkeys((
        "clock_boundary_scheduling", "completion_batching", "leadership_same_client_id_term_replacement",
        "maintenance_rescuer_full_batch_of_unexpired_jobs", "maintenance_rescuer_stale_selection",
        "notification_only_wakeups", "pool_pressure_completion", "shutdown_after_cancel_attempt",
        "unsafe_int64_job_ids_rpc_list_cursors",
    )),
    "interop/conformance.py": dict.fromkeys((
        "candidate_insert_reference_work", "candidate_migrator_reference_runtime",
        "candidate_process_kill_reference_rescue", "claim_time_cancellation", "cross_language_unique_conflict",
        "job_list_cursor_interchange", "mixed_leader_failover_both_directions", "mixed_request_resign_terms",
        "mixed_skip_locked_competition", "mixed_unknown_kind_error", "pause_resume_notification",
        "reference_insert_candidate_work", "reference_migrator_candidate_runtime",
        "reference_process_kill_candidate_rescue", "remote_cancel_notification", "resumable_cross_engine_cursor",
        "transactional_cross_language_cancel", "transactional_insert_notification_commit_only",
    )) | {"multi_engine_resumable_cursor": "resumable_cross_engine_cursor"},
    "interop/contract_storage.py": dict.fromkeys((
        "differential_job_crud", "differential_job_list_filters_and_cursors", "differential_queue_crud",
        "job_row_round_trip_all_fields", "notification_payload_bytes", "typed_batch_insertion", "unique_column_bytes",
    )) | {
        **dict.fromkeys((
            "bulk_delete_safety", "transactional_batch_insertion", "transactional_crud_commit_rollback",
            "transactional_queue_operations",
        ), "typed_batch_insertion"),
        **dict.fromkeys((
            "custom_schema_candidate_migrate_reference_work", "custom_schema_reference_migrate_candidate_work",
            "historical_migration_down_up", "migration_mixed_case_schema",
        ), "custom_schema_migrate_here_work_there"),
        "multi_engine_job_list_cursor_interchange": "job_row_round_trip_all_fields",
        "queue_names_and_unknown_queue_control": "differential_queue_crud",
    },
    "interop/contract_runtime.py": dict.fromkeys((
        "claimed_row_decode_isolation", "cooperative_remote_cancellation", "default_retry_policy_schedule",
        "dynamic_queue_add_reconfigure_remove", "error_handler_cancel_override", "external_terminal_completion_race",
        "hard_shutdown_soft_stop_classification", "leader_election_disabled_both_directions",
        "listener_backend_disconnect_reconnect", "multi_engine_process_kill_rescue_failover",
        "periodic_unique_cross_engine", "remote_queue_subscription_events", "single_implementation_worker_outcomes",
    )) | {
        **dict.fromkeys((
            "multi_engine_directed_candidate_work_notification_cancellation", "refetched_attempt_cancellation",
        ), "cooperative_remote_cancellation"),
        **dict.fromkeys((
            "multi_engine_leader_election_disabled", "multi_engine_leader_failover",
        ), "leader_election_disabled_both_directions"),
        "mixed_leader_death_failover_both_directions": "multi_engine_process_kill_rescue_failover",
        **dict.fromkeys((
            "panic_attempt_trace", "reserved_metadata_cross_engine", "snooze_once_metadata_transition",
        ), "single_implementation_worker_outcomes"),
    },
    "interop/contract_load.py": dict.fromkeys((
        "database_unavailable_reconnect", "mixed_soak", "multi_engine_fault_recovery",
        "rolling_deployment_same_protocol",
    )) | dict.fromkeys((
        "mixed_connection_pool_bound", "multi_engine_competition", "multi_engine_resource_bound", "multi_engine_soak",
    ), "mixed_soak"),
}  # fmt: skip
MEASURED = {
    "multi_engine_release_performance", "release_enqueue_performance", "release_mixed_performance",
    "release_worker_performance",
}  # fmt: skip
COUNT = 103


def test_every_scenario_is_played() -> None:
    names = [name for scenarios in PLAYED.values() for name in scenarios] + list(MEASURED)
    assert len(names) == len(set(names)) == COUNT
    for file, scenarios in PLAYED.items():
        tree = ast.parse((TESTS / file).read_text("utf-8"))
        found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        missing = {f"test_{test or name}" for name, test in scenarios.items()} - found
        assert not missing, f"{file}: {missing}"
