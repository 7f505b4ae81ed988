package main

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
)

// working is a started client, and what it did.
type working struct {
	client *river.Client[pgx.Tx]

	mutex  sync.Mutex
	counts map[string]int
	events []string
}

func (w *working) count(name string) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.counts[name]++
}

func (w *working) HandleError(context.Context, *rivertype.JobRow, error) *river.ErrorHandlerResult {
	w.count("error_handler_calls")
	return &river.ErrorHandlerResult{SetCancelled: true}
}

func (w *working) HandlePanic(context.Context, *rivertype.JobRow, any, string) *river.ErrorHandlerResult {
	w.count("error_handler_calls")
	return &river.ErrorHandlerResult{SetCancelled: true}
}

type startParams struct {
	ClientID               string `json:"client_id"`
	Queue                  string `json:"queue"`
	MaxWorkers             int    `json:"max_workers"`
	Schema                 string `json:"schema"`
	FetchPollIntervalMS    int    `json:"fetch_poll_interval_ms"`
	PollOnly               bool   `json:"poll_only"`
	ErrorHandlerCancel     bool   `json:"error_handler_cancel"`
	RetryDelayMS           *int   `json:"retry_delay_ms"`
	JobTimeoutMS           int    `json:"job_timeout_ms"`
	RescueAfterMS          int    `json:"rescue_after_ms"`
	LeaderElectionDisabled bool   `json:"leader_election_disabled"`
	PeriodicRunOnStart     bool   `json:"periodic_run_on_start"`
	PeriodicUnique         bool   `json:"periodic_unique"`
}

func (a *adapter) config(params startParams, started *working) *river.Config {
	bundle := river.NewWorkers()
	river.AddWorker(bundle, &echoWorker{adapter: a, stats: started})
	queue := "default"
	if params.Queue != "" {
		queue = params.Queue
	}
	workers := 4
	if params.MaxWorkers > 0 {
		workers = params.MaxWorkers
	}
	poll := 10
	if params.FetchPollIntervalMS > 0 {
		poll = params.FetchPollIntervalMS
	}
	config := &river.Config{
		ID: params.ClientID, FetchCooldown: time.Millisecond, FetchPollInterval: milliseconds(poll),
		LeaderElectionDisabled: params.LeaderElectionDisabled, Logger: a.logger, PollOnly: params.PollOnly,
		Queues: map[string]river.QueueConfig{queue: {MaxWorkers: workers}}, Schema: params.Schema,
		TestOnly: true, Workers: bundle, JobTimeout: milliseconds(params.JobTimeoutMS),
		RescueStuckJobsAfter: milliseconds(params.RescueAfterMS),
	}
	if params.RescueAfterMS > 0 && params.JobTimeoutMS == 0 {
		config.JobTimeout = config.RescueStuckJobsAfter
	}
	if params.RetryDelayMS != nil {
		config.RetryPolicy = retryAfter(milliseconds(*params.RetryDelayMS))
	}
	if params.ErrorHandlerCancel {
		config.ErrorHandler = started
	}
	if params.PeriodicRunOnStart {
		config.PeriodicJobs = periodicJobs(params.PeriodicUnique)
	}
	return config
}

func periodicJobs(unique bool) []*river.PeriodicJob {
	made := func(id, message string, opts *river.InsertOpts) *river.PeriodicJob {
		construct := func() (river.JobArgs, *river.InsertOpts) { return echoArgs{Message: message}, opts }
		settings := &river.PeriodicJobOpts{ID: id, RunOnStart: true}
		return river.NewPeriodicJob(river.PeriodicInterval(time.Hour), construct, settings)
	}
	first := &river.InsertOpts{UniqueOpts: river.UniqueOpts{ByArgs: unique, ByQueue: unique}}
	jobs := []*river.PeriodicJob{made("conformance-periodic", "periodic run on start", first)}
	if unique {
		jobs = append(jobs, made("conformance-periodic-marker", "periodic marker", nil))
	}
	return jobs
}

func startWorking(a *adapter, params startParams) (any, error) {
	if a.work != nil {
		return nil, rejected("a client runs")
	}
	started := &working{counts: map[string]int{}}
	client, err := river.NewClient(riverpgxv5.New(a.pool), a.config(params, started))
	if err != nil {
		return nil, err
	}
	events, _ := client.SubscribeConfig(&river.SubscribeConfig{ChanSize: 100_000, Kinds: []river.EventKind{
		river.EventKindJobCancelled, river.EventKindJobCompleted, river.EventKindJobFailed,
		river.EventKindJobInterrupted, river.EventKindJobSnoozed,
		river.EventKindQueuePaused, river.EventKindQueueResumed,
	}})
	go func() {
		for event := range events {
			started.mutex.Lock()
			started.events = append(started.events, string(event.Kind))
			started.mutex.Unlock()
		}
	}()
	started.client = client
	if err := client.Start(a.ctx); err != nil {
		return nil, err
	}
	a.work = started
	return nil, nil
}

func stopWorking(a *adapter, params struct {
	Cancel bool `json:"cancel"`
}) (any, error) {
	if a.work == nil {
		return nil, rejected("no client runs")
	}
	stopped := a.work
	a.work = nil
	ctx, cancel := context.WithTimeout(a.ctx, 9*time.Second)
	defer cancel()
	if params.Cancel {
		return nil, stopped.client.StopAndCancel(ctx)
	}
	return nil, stopped.client.Stop(ctx)
}

func stats(a *adapter, _ none) (any, error) {
	if a.work == nil {
		return nil, rejected("no client runs")
	}
	a.work.mutex.Lock()
	defer a.work.mutex.Unlock()
	found := map[string]any{"events": append([]string{}, a.work.events...), "trace": []string{}}
	for _, name := range []string{
		"cancelled_at_start", "error_handler_calls", "periodic_starts", "resumable_first_runs", "resumable_second_runs",
		"stuck_jobs",
	} {
		found[name] = a.work.counts[name]
	}
	return found, nil
}

func resign(a *adapter, params handleParams) (any, error) {
	client, err := a.client("")
	if err != nil {
		return nil, err
	}
	if params.Handle == "" {
		return nil, client.Notify().RequestResign(a.ctx)
	}
	found, err := a.transaction(params.Handle)
	if err != nil {
		return nil, err
	}
	return nil, client.Notify().RequestResignTx(a.ctx, found)
}

type echoWorker struct {
	river.WorkerDefaults[echoArgs]
	adapter *adapter
	stats   *working
}

func (w *echoWorker) Work(ctx context.Context, job *river.Job[echoArgs]) error {
	switch job.Args.Behavior {
	case "":
		return nil
	case "barrier_wait", "barrier_output":
		if err := w.barrier(ctx, job.Args.Message); err != nil || job.Args.Behavior == "barrier_wait" {
			return err
		}
		return river.RecordOutput(ctx, map[string]string{"race": "worker"})
	case "output":
		return river.RecordOutput(ctx, map[string]string{"message": job.Args.Message})
	case "sleep":
		time.Sleep(milliseconds(int(job.Args.DurationMS)))
		return nil
	case "error":
		return errors.New("conformance retryable error")
	case "discard":
		return errors.New("conformance discard")
	case "panic":
		panic("conformance worker panic")
	case "cancel":
		return river.JobCancel(errors.New("cancelled by conformance worker"))
	case "snooze_once", "snooze_then_cancel":
		return w.snooze(ctx, job)
	case "resumable":
		return w.resumable(ctx, job)
	case "resumable_cursor":
		return cursorSteps(ctx, job)
	case "transactional_complete":
		return w.complete(ctx, job)
	}
	return w.cancelled(ctx, job.Args.Behavior)
}

func (w *echoWorker) barrier(ctx context.Context, name string) error {
	w.adapter.mutex.Lock()
	barrier := w.adapter.barriers[name]
	w.adapter.mutex.Unlock()
	if barrier == nil {
		return errors.New("unknown barrier " + name)
	}
	select {
	case <-barrier:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (w *echoWorker) cancelled(ctx context.Context, behavior string) error {
	switch behavior {
	case "cooperative_cancel":
		if ctx.Err() != nil {
			w.stats.count("cancelled_at_start")
		}
		<-ctx.Done()
		return context.Cause(ctx)
	case "cancel_error":
		<-ctx.Done()
		return errors.New("conformance failure after cancellation")
	case "cancel_panic":
		<-ctx.Done()
		panic("conformance panic after cancellation")
	case "ignored_cancel":
		select {}
	}
	return errors.New("unknown behavior " + behavior)
}

func (w *echoWorker) snooze(ctx context.Context, job *river.Job[echoArgs]) error {
	var metadata map[string]any
	if err := json.Unmarshal(job.Metadata, &metadata); err != nil {
		return err
	}
	if metadata["snoozes"] == nil {
		return river.JobSnooze(milliseconds(max(int(job.Args.DurationMS), 1)))
	}
	if job.Args.Behavior == "snooze_once" {
		return nil
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func (w *echoWorker) resumable(ctx context.Context, job *river.Job[echoArgs]) error {
	river.ResumableStep(ctx, "first", nil, func(context.Context) error {
		w.stats.count("resumable_first_runs")
		return nil
	})
	river.ResumableStep(ctx, "second", nil, func(context.Context) error {
		w.stats.count("resumable_second_runs")
		if job.Attempt == 1 {
			return errors.New("fail second resumable step once")
		}
		return nil
	})
	return nil
}

func cursorSteps(ctx context.Context, job *river.Job[echoArgs]) error {
	river.ResumableStep(ctx, "first", nil, func(ctx context.Context) error {
		return river.MetadataSet(ctx, "first_attempt", job.Attempt)
	})
	river.ResumableStepCursor(ctx, "second", nil, func(ctx context.Context, cursor int) error {
		if job.Attempt == 1 {
			if err := river.ResumableSetCursor(ctx, 7); err != nil {
				return err
			}
			return errors.New("retry with cursor")
		}
		if cursor != 7 {
			return errors.New("the cursor is not 7")
		}
		return river.MetadataSet(ctx, "cursor_observed", cursor)
	})
	river.ResumableStep(ctx, "third", nil, func(context.Context) error {
		if job.Attempt == 2 {
			return errors.New("retry after consuming cursor")
		}
		return nil
	})
	return nil
}

func (w *echoWorker) complete(ctx context.Context, job *river.Job[echoArgs]) error {
	if err := river.MetadataSet(ctx, "transactional_completion", true); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, w.adapter.pool, func(own pgx.Tx) error {
		_, err := river.JobCompleteTx[*driver](ctx, own, job)
		return err
	})
}

var methods = map[string]method{}

func init() {
	client := map[string]method{
		"barrier_create": taking(barrierCreate), "barrier_release": taking(barrierRelease),
		"start": taking(startWorking), "stop": taking(stopWorking), "runtime_stats": taking(stats),
		"tx_begin": taking(txBegin), "tx_fail": taking(txFail),
		"tx_commit":   txEnd(func(t pgx.Tx, ctx context.Context) error { return t.Commit(ctx) }),
		"tx_rollback": txEnd(func(t pgx.Tx, ctx context.Context) error { return t.Rollback(ctx) }),
		"insert":      taking(echoInsert), "tx_insert": taking(txInsert), "benchmark_enqueue": taking(benchmarkEnqueue),
		"migrate": taking(migrated), "request_resign": taking(resign), "wait": taking(wait),
		"queue_add": taking(addQueue), "queue_remove": taking(removeQueue),
	}
	both := map[string]method{
		"insert_many": taking(echoInsertMany), "list": taking(listed), "delete_many": taking(deletedMany),
		"get": verb((*river.Client[pgx.Tx]).JobGetTx), "cancel": verb((*river.Client[pgx.Tx]).JobCancelTx),
		"retry": verb((*river.Client[pgx.Tx]).JobRetryTx), "delete": verb((*river.Client[pgx.Tx]).JobDeleteTx),
		"update":    ofJob(update),
		"queue_get": ofQueue(getQueue), "queue_list": ofQueue(listQueues), "queue_pause": ofQueue(pauseQueue),
		"queue_resume": ofQueue(resumeQueue), "queue_update": ofQueue(updateQueue),
	}
	maps.Copy(methods, client)
	for name, found := range both {
		methods[name], methods["tx_"+name] = found, found
	}
}
