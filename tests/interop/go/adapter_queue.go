package main

import (
	"encoding/json"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

type txQueue struct {
	handleParams
	Name       string          `json:"name"`
	Limit      int             `json:"limit"`
	MaxWorkers int             `json:"max_workers"`
	Metadata   json.RawMessage `json:"metadata"`
}

func normalQueue(queue *rivertype.Queue) map[string]any {
	return map[string]any{
		"created_at": utc(&queue.CreatedAt), "metadata": members(queue.Metadata), "name": queue.Name,
		"paused_at": utc(queue.PausedAt), "updated_at": utc(&queue.UpdatedAt),
	}
}

// ofQueue makes a method of a verb in a transaction: the handle's, or one of its own.
func ofQueue(verb func(a *adapter, client *river.Client[pgx.Tx], found pgx.Tx, params txQueue) (any, error)) method {
	return taking(func(a *adapter, params txQueue) (any, error) {
		client, err := a.client("")
		if err != nil {
			return nil, err
		}
		if params.Handle != "" {
			found, err := a.transaction(params.Handle)
			if err != nil {
				return nil, err
			}
			return verb(a, client, found, params)
		}
		var result any
		err = pgx.BeginFunc(a.ctx, a.pool, func(own pgx.Tx) error {
			result, err = verb(a, client, own, params)
			return err
		})
		return result, err
	})
}

func getQueue(a *adapter, client *river.Client[pgx.Tx], found pgx.Tx, params txQueue) (any, error) {
	queue, err := client.QueueGetTx(a.ctx, found, params.Name)
	if err != nil {
		return nil, err
	}
	return normalQueue(queue), nil
}

func listQueues(a *adapter, client *river.Client[pgx.Tx], found pgx.Tx, params txQueue) (any, error) {
	list := river.NewQueueListParams()
	if params.Limit != 0 {
		list = list.First(params.Limit)
	}
	result, err := client.QueueListTx(a.ctx, found, list)
	if err != nil {
		return nil, err
	}
	queues := []map[string]any{}
	for _, queue := range result.Queues {
		queues = append(queues, normalQueue(queue))
	}
	return map[string]any{"queues": queues}, nil
}

func pauseQueue(a *adapter, client *river.Client[pgx.Tx], found pgx.Tx, params txQueue) (any, error) {
	return nil, client.QueuePauseTx(a.ctx, found, params.Name, nil)
}

func resumeQueue(a *adapter, client *river.Client[pgx.Tx], found pgx.Tx, params txQueue) (any, error) {
	return nil, client.QueueResumeTx(a.ctx, found, params.Name, nil)
}

func updateQueue(a *adapter, client *river.Client[pgx.Tx], found pgx.Tx, params txQueue) (any, error) {
	changes := &river.QueueUpdateParams{Metadata: params.Metadata}
	queue, err := client.QueueUpdateTx(a.ctx, found, params.Name, changes)
	if err != nil {
		return nil, err
	}
	return normalQueue(queue), nil
}

func addQueue(a *adapter, params txQueue) (any, error) {
	if a.work == nil {
		return nil, rejected("no client runs")
	}
	_ = a.work.client.Queues().Remove(a.ctx, params.Name)
	return nil, a.work.client.Queues().Add(params.Name, river.QueueConfig{MaxWorkers: max(params.MaxWorkers, 1)})
}

func removeQueue(a *adapter, params txQueue) (any, error) {
	if a.work == nil {
		return nil, rejected("no client runs")
	}
	return nil, a.work.client.Queues().Remove(a.ctx, params.Name)
}
