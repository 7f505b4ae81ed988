package main

import (
	"context"
	"encoding/json"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

type nameParams struct {
	Name string `json:"name"`
}

func queueFields(queue *rivertype.Queue) map[string]any {
	return map[string]any{
		"name": queue.Name, "metadata": string(queue.Metadata), "paused_at": micros(queue.PausedAt),
		"created_at": micros(&queue.CreatedAt), "updated_at": micros(&queue.UpdatedAt),
	}
}

func queueGet(ctx context.Context, p *peer, params nameParams) (any, error) {
	queue, err := p.client.QueueGet(ctx, params.Name)
	if err != nil {
		return nil, err
	}
	return queueFields(queue), nil
}

func queueList(ctx context.Context, p *peer, _ none) (any, error) {
	result, err := p.client.QueueList(ctx, river.NewQueueListParams())
	if err != nil {
		return nil, err
	}
	queues := make([]map[string]any, len(result.Queues))
	for i, queue := range result.Queues {
		queues[i] = queueFields(queue)
	}
	return queues, nil
}

func queuePause(ctx context.Context, p *peer, params nameParams) (any, error) {
	return nil, p.client.QueuePause(ctx, params.Name, nil)
}

func queueResume(ctx context.Context, p *peer, params nameParams) (any, error) {
	return nil, p.client.QueueResume(ctx, params.Name, nil)
}

type queueUpdateParams struct {
	Name     string          `json:"name"`
	Metadata json.RawMessage `json:"metadata"`
}

func queueUpdate(ctx context.Context, p *peer, params queueUpdateParams) (any, error) {
	queue, err := p.client.QueueUpdate(ctx, params.Name, &river.QueueUpdateParams{Metadata: params.Metadata})
	if err != nil {
		return nil, err
	}
	return queueFields(queue), nil
}
