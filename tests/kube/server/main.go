// Command server is etcd, kube-apiserver and kube-controller-manager in one file, for tests on loopback.
//
// The first argument picks the program, the others are that program's own flags. Standard input is the
// line to the process that started it: when it ends, however that process ended, this one ends too.
// (PR_SET_PDEATHSIG would fire when the thread that started us ends, and only Linux has it.)
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics on /metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // kubernetes_build_info on /metrics
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

const usage = "usage: server key | etcd FLAGS | kube-apiserver FLAGS | kube-controller-manager FLAGS"

func main() {
	if len(os.Args) < 2 {
		fail(usage)
	}
	program := os.Args[1]
	os.Args = append([]string{program}, os.Args[2:]...) // both etcd and cobra read os.Args

	if program == "key" {
		if err := writeKey(os.Stdout); err != nil {
			fail(err)
		}
		return
	}

	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()

	switch program {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(controllermanager.NewControllerManagerCommand()))
	default:
		fail(usage)
	}
}

// writeKey writes a fresh private key that signs service account tokens: the API server does not start without one.
func writeKey(w io.Writer) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return pem.Encode(w, &pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func fail(why any) {
	fmt.Fprintln(os.Stderr, "server:", why)
	os.Exit(2)
}
