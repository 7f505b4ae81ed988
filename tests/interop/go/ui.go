package main

import (
	"context"
	"net"
	"net/http"

	"riverqueue.com/riverui"
)

// serveUI serves River UI, as it is released, on a free port of this machine until the program ends; its address.
func serveUI(ctx context.Context, p *peer, _ none) (any, error) {
	handler, err := riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(p.client, nil),
		Logger:    p.logger,
		Prefix:    "/ui",
	})
	if err != nil {
		return nil, err
	}
	if err := handler.Start(ctx); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() { _ = http.Serve(listener, handler) }()
	return "http://" + listener.Addr().String() + "/ui", nil
}
